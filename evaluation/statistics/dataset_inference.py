"""Dataset inference: many weak scores of documents, weighed on one half and put to the test on the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

RIDGE_PENALTY = 1.0
"""Of standardized features, in units of a document: keeps alike features from cancelling each other."""


class Weighed(NamedTuple):
    """Documents that were not weighed on, with their scores.

    Args:
        scores: of the documents in question.
        nonmembers: of those that were not used.
    """

    scores: Float[np.ndarray, "documents"]
    nonmembers: Float[np.ndarray, "nonmembers"]


def weighed(
    features: Float[np.ndarray, "documents features"],
    questioned: Bool[np.ndarray, "documents"],
    units: Int[np.ndarray, "documents"] | None = None,
    seed: int = 0,
) -> Weighed:
    """Scores by a linear model that tells the documents in question from others in one random half, of the other half.

    Where none was used, and all are of one law, the scores of the other half are exchangeable whatever the model
    learnt: any test of two samples holds (Maini et al. 2024, "LLM Dataset Inference", section 5).

    Args:
        features: scores of attacks, higher = more likely used.
        questioned: which documents are in question; the others were not used.
        units: documents of one number, such as a person's, stay in one half; None: each by itself.
        seed: of the halves, public.
    """
    units = np.arange(len(features)) if units is None else np.unique(units, return_inverse=True)[1]
    first = np.zeros(len(features), dtype=bool)
    rng = np.random.default_rng(seed)
    for side in (questioned, ~questioned):  # both sides are halved, so that neither half lacks one
        own = np.unique(units[side])
        first |= side & np.isin(units, rng.permutation(own)[: len(own) // 2])
    center, spread = features[first].mean(axis=0), features[first].std(axis=0)
    x = (features - center) / np.where(spread > 0, spread, 1.0)
    y = questioned[first] - questioned[first].mean()
    fitted = x[first]
    weights = np.linalg.solve(fitted.T @ fitted + RIDGE_PENALTY * np.eye(x.shape[1]), fitted.T @ y)
    scores = x @ weights
    return Weighed(scores[~first & questioned], scores[~first & ~questioned])
