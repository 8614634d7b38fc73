"""The blind baseline: how well members are told from non-members without asking the model at all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

MOST = 10_000
"""Records that it is fitted on; more cost time and change little."""
COMPONENTS = 64
FOLDS = 5


def blind_scores(
    features: Shaped[np.ndarray, "records ..."] | None,
    labels: Int[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None = None,
) -> Float[np.ndarray, "records"]:
    """Scores of a classifier that sees the records and not one answer, each by a fit without that record.

    Where a person has several records, the fit lacks all of them: one's others would give away its side.

    Only records of one distribution can be told apart by nothing but the model. Where this classifier succeeds, members
    and non-members differ by themselves, and every attack may only be seeing that difference (Das, Zhang & Tramèr 2024,
    "Blind Baselines Beat Membership Inference Attacks for Foundation Models").

    Args:
        features: the records; None: only their classes are compared.
        labels: the true classes.
        members: which records the model was trained on.
        persons: whose record each one is, at least 5 persons a side, each on one side; None: each another person's.

    Returns:
        Higher = more likely a member; NaN for what exceeds 10,000 records, drawn at random.
    """
    drawn = np.random.default_rng(0).permutation(len(labels))[:MOST]
    seen = np.equal.outer(labels[drawn], np.unique(labels)).astype(np.float64)
    if features is not None:
        flat = features[drawn].reshape(len(drawn), -1).astype(np.float64)
        if flat.shape[1] > COMPONENTS:
            flat = PCA(min(COMPONENTS, len(flat)), random_state=0).fit_transform(flat)
        seen = np.hstack([flat, seen])
    leaf = min(20, max(2, len(drawn) // 20))
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, min_samples_leaf=leaf, early_stopping=False, random_state=0
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = np.full(len(labels), np.nan)
    unit = np.arange(len(drawn)) if persons is None else persons[drawn]
    _, first, person = np.unique(unit, return_index=True, return_inverse=True)
    for _, left_out in folds.split(first, members[drawn][first]):
        apart = np.isin(person, left_out)
        fitted_on, scored = np.flatnonzero(~apart), np.flatnonzero(apart)
        told = trees.fit(seen[fitted_on], members[drawn][fitted_on]).decision_function(seen[scored])
        # Ranks: a fold that holds more members leaves fewer to fit on, and would score below the others as a whole.
        scores[drawn[scored]] = rankdata(told) / len(scored)
    return scores
