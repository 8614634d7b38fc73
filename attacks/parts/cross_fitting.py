"""A classifier of membership that is fitted on some models of a fleet and scores the others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import HistGradientBoostingClassifier

from palisade.attacks.parts.view import Parts

CROSS_FITTING_FOLDS = 4
MOST_PAIRS = 20_000  # (model, record) pairs that a classifier is fitted on; more cost time and change little
LEAST_PAIRS = 200  # below, a class has no classifier of its own


@runtime_checkable
class Classifier(Protocol):
    """Interface of a scikit-learn classifier or pipeline; the decision is the log-odds of class 1."""

    def fit(self, X: Float[np.ndarray, "n d"], y: Bool[np.ndarray, "n"]) -> Any:
        """Training on features of n records and their membership."""

    def decision_function(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Log-odds of membership, one for each of n records."""


def boosted_trees(seed: int) -> Classifier:
    """Small trees on few numbers, whatever their scales and relations: nothing to tune."""
    return HistGradientBoostingClassifier(max_leaf_nodes=15, early_stopping=False, random_state=seed)


def cross_fit(
    features: Float[np.ndarray, "models records d"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    classifier: Callable[[], Classifier],
    *,
    labels: Int[np.ndarray, "records"] | None = None,
    parts: Parts | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "models records"]:
    """The log-odds of membership by a classifier that was not fitted on the target.

    The groups of the fleet are dealt out to at most four folds. For each fold, the classifier is fitted on as many
    (model, record) pairs with as without membership, drawn from the models of the *other* folds, and scores this one:
    neither a target's membership nor that of its group has a part in its scores.

    Args:
        features: what the classifier sees of a pair.
        membership: which model was trained on which record.
        others: `View.others`.
        classifier: makes a new, unfitted classifier.
        labels: the classes, for one classifier each; a class with too few pairs is left to one for all of them.
        parts: `View.parts`: records that are scored, each with those that the classifier may be fitted on; None: all.
        seed: of the drawing of pairs.

    Returns:
        Scores, NaN where the other folds hold no member or no non-member.
    """
    scores = np.full(membership.shape, np.nan)
    every = np.arange(membership.shape[1])
    classes = [] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for fold, (asked, known) in product(folds(others), parts or [(every, every)]):
        fitting = np.setdiff1d(np.arange(len(membership)), fold)
        for part, records in enumerate([every, *classes]):  # a class's own classifier has the last word
            rng = np.random.default_rng((seed, part))  # not one for all folds: its state would reveal their membership
            models, chosen = _balanced(membership, fitting, np.intersect1d(records, known), rng)
            if len(models) < (LEAST_PAIRS if part else 2):
                continue
            fitted = classifier()
            fitted.fit(features[models, chosen], membership[models, chosen])
            if not len(scored := np.intersect1d(records, asked)):
                continue
            for model in fold:
                scores[model, scored] = fitted.decision_function(features[model, scored])
    return scores


def folds(others: Bool[np.ndarray, "models models"]) -> list[Int[np.ndarray, "_"]]:
    """The models of each fold, groups kept together."""
    _, group = np.unique(np.argmin(others, axis=1), return_inverse=True)  # a group is known by its first model
    return [
        np.flatnonzero(group % CROSS_FITTING_FOLDS == fold) for fold in range(min(CROSS_FITTING_FOLDS, group.max() + 1))
    ]


def _balanced(
    membership: Bool[np.ndarray, "models records"],
    models: Int[np.ndarray, "_"],
    records: Int[np.ndarray, "_"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
    """Models and records of pairs, half of them with membership: the log-odds of all classifiers then compare."""
    member = membership[np.ix_(models, records)].ravel()
    inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
    count = min(len(inside), len(outside), MOST_PAIRS // 2)
    drawn = np.concatenate([rng.choice(side, count, replace=False) for side in (inside, outside)])
    model, record = np.unravel_index(drawn, (len(models), len(records)))
    return models[model], records[record]
