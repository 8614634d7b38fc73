"""A classifier of membership that is fitted on some models of a fleet and scores the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import HistGradientBoostingClassifier

from palisade.attacks.parts.blocks import blocks, room
from palisade.attacks.parts.view import Parts

Features = Callable[[int, Int[np.ndarray, "n"]], Float[np.ndarray, "n d"]]

CROSS_FITTING_FOLDS = 4
MOST_PAIRS = 20_000  # (model, record) pairs that a classifier is fitted on; more cost time and change little
FEATURES_AT_ONCE = 64  # of a record, for which there is room: records are asked about in blocks
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
    features: Features,
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
        features: gives what the classifier sees of a model and some records, (n, d).
        membership: which model was trained on which record.
        others: `View.others`.
        classifier: makes a new, unfitted classifier.
        labels: the classes, for one classifier each; a class with too few pairs is left to one for all of them.
        parts: `View.parts`: records that are scored, each with those that the classifier may be fitted on; None: all.
        seed: of the drawing of pairs.

    Returns:
        Scores, NaN where the other folds hold no member or no non-member.
    """
    scores = room(membership.shape)
    every = np.arange(membership.shape[1])
    classes = [] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for fold, (asked, known) in product(folds(others), parts or [(every, every)]):
        fitting = np.setdiff1d(np.arange(len(membership)), fold)
        fitted: list[tuple[np.ndarray, Classifier]] = []
        for part, records in enumerate([every, *classes]):  # a class's own classifier has the last word
            rng = np.random.default_rng((seed, part))  # not one for all folds: its state would reveal their membership
            models, chosen = _balanced(membership, fitting, np.intersect1d(records, known), rng)
            if len(models) < (LEAST_PAIRS if part else 2):
                continue
            own = classifier()
            own.fit(of_pairs(features, models, chosen), membership[models, chosen])
            fitted.append((np.flatnonzero(np.isin(asked, records)), own))
        for model in fold:
            for block in blocks(FEATURES_AT_ONCE, len(asked)):
                scores[model, asked[block]] = _decided(features(model, asked[block]), block, fitted)
    return scores


def _decided(
    seen: Float[np.ndarray, "block d"], block: slice, fitted: Sequence[tuple[np.ndarray, Classifier]]
) -> Float[np.ndarray, "block"]:
    """Decisions about a block of the records that are asked about, each by the last classifier of its class."""
    decided = np.full(len(seen), np.nan)
    for places, classifier in fitted:
        low, high = np.searchsorted(places, [block.start, block.stop])
        if len(own := places[low:high] - block.start):
            decided[own] = classifier.decision_function(seen[own])
    return decided


def of_pairs(
    features: Features, models: Int[np.ndarray, "pairs"], records: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs d"]:
    """Features of (model, record) pairs, one model at a time."""
    of_models = {int(model): np.flatnonzero(models == model) for model in np.unique(models)}
    parts = [features(model, records[pairs]) for model, pairs in of_models.items()]
    seen = np.empty((len(models), parts[0].shape[1]), parts[0].dtype)
    for pairs, part in zip(of_models.values(), parts, strict=True):
        seen[pairs] = part
    return seen


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
    inside = int(member.sum())
    count = min(inside, len(member) - inside, MOST_PAIRS // 2)
    drawn = []
    for wanted, size in ((member, inside), (~member, len(member) - inside)):
        ranks = rng.choice(size, count, replace=False)
        drawn.append(np.searchsorted(np.cumsum(wanted, dtype=np.int32), ranks + 1))  # the place of that rank
    model, record = np.unravel_index(np.concatenate(drawn), (len(models), len(records)))
    return models[model], records[record]
