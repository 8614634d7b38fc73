"""Features of a model's answer about a record, for a classifier of membership."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.outputs import Outputs

TOP = 10  # sorted probabilities that are looked at; the tail beyond tells little more
LEAST = 1e-6  # what smaller probabilities count as: how far they are rounded tells of the release, not of membership


def answer_features(view: Outputs) -> Float[np.ndarray, "models records d"]:
    """Log-odds, correctness, modified entropy, and the logarithms of the largest probabilities, sorted.

    Sorting makes the answers of all classes alike (Shokri et al. 2017, section V; Salem et al. 2019, section III).
    """
    top = min(TOP, view.classes)
    features = np.empty((view.models, view.records, top + 3))
    features[:, :, 0] = view.log_odds[:, :, 0]
    features[:, :, 1] = view.correct[:, :, 0]
    features[:, :, 2] = view.modified_entropy[:, :, 0]
    for model in range(view.models):
        probabilities = np.sort(view.probabilities_of(model), axis=1)[:, -top:]
        features[model, :, 3:] = np.log(np.maximum(probabilities, LEAST))
    return features
