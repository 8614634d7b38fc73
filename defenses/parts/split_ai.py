"""Answers of an ensemble about records that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, Real
from scipy.special import softmax

from palisade.targets.fleet import Fleet


def soft_labels(
    sub_models: Sequence[Fleet],
    sees: Bool[np.ndarray, "parts records"],
    x: Real[np.ndarray, "all ..."],
    records: Int64[np.ndarray, " records"],
) -> Float32[np.ndarray, "records classes"]:
    """The mean probabilities, for each record, by the sub-models that did not see it (Split-AI: Tang et al. 2022).

    A non-member is answered by models that never saw it; so is a member here. One sub-model that did see it among
    those that are averaged would give it away.

    Args:
        sub_models: of one model, each a fleet of one.
        sees: which of them may have been trained on which record; every record is left out somewhere.
        x: inputs of the whole data set.
        records: whose labels are asked for.
    """
    total: Float32[np.ndarray, "records classes"] | None = None
    for sub_model, seen in zip(sub_models, sees, strict=True):
        if seen.all():
            continue
        probabilities = softmax(sub_model.predict(x[records[~seen]])[0], axis=-1)
        if total is None:
            total = np.zeros((len(records), probabilities.shape[-1]), dtype=np.float32)
        total[~seen] += probabilities
    assert total is not None
    return total / (~sees).sum(axis=0, dtype=np.float32)[:, None]
