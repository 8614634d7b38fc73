from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from palisade.attacks.parts.cross_fitting import CROSS_FITTING_FOLDS, LEAST_PAIRS, MOST_PAIRS, cross_fit, folds
from palisade.evaluation.statistics.metrics import roc_auc


class MeanDifference:
    """A classifier whose fit does not depend on the order of pairs; it notes what it was fitted on."""

    fits: list[np.ndarray]

    def __init__(self, fits: list[np.ndarray] | None = None):
        self.fits = [] if fits is None else fits

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        self.fits.append(y)
        inside, outside = X[y].mean(axis=0), X[~y].mean(axis=0)
        self.direction, self.middle = inside - outside, (inside + outside) / 2

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return (X - self.middle) @ self.direction


def apart(models: int, groups: np.ndarray | None = None) -> np.ndarray:
    own = np.arange(models) if groups is None else groups
    return own[:, None] != own


def fleet(seed: int, models: int, records: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Every record has as many members as non-members in any two models 2i, 2i + 1, hence all pairs are drawn."""
    rng = np.random.default_rng(seed)
    half = rng.random((models // 2, records)) < 0.5
    member = np.stack([half, ~half], axis=1).reshape(models, records)
    return rng.standard_normal((models, records, 3)) + effect * member[:, :, None], member


def rows_of(features: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda model, records: features[model, records]


def test_equals_a_fit_on_the_other_folds() -> None:
    features, member = fleet(0, 8, 40, 1.0)
    groups = np.arange(8) // 2
    scores = cross_fit(rows_of(features), member, apart(8, groups), MeanDifference)
    for group in range(4):
        own = MeanDifference()
        own.fit(features[groups != group].reshape(-1, 3), member[groups != group].ravel())
        expected = own.decision_function(features[groups == group].reshape(-1, 3)).reshape(2, 40)
        np.testing.assert_allclose(scores[groups == group], expected)


@settings(deadline=None, max_examples=25)
@given(models=st.integers(2, 12), seed=st.integers(0, 2**32))
def test_folds_hold_every_model_once_and_groups_together(models: int, seed: int) -> None:
    groups = np.random.default_rng(seed).integers(models, size=models)
    parts = folds(apart(models, groups))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(models))
    assert len(parts) == min(CROSS_FITTING_FOLDS, len(np.unique(groups)))
    for part in parts:
        assert not set(groups[part]) & set(np.delete(groups, part))


@pytest.mark.parametrize("per_class", [False, True])
def test_a_targets_membership_never_enters_its_scores(per_class: bool) -> None:
    rng = np.random.default_rng(0)
    member = rng.random((9, 300)) < 0.5
    features = rng.standard_normal((9, 300, 2)) + member[:, :, None]
    labels = rng.integers(3, size=300) if per_class else None
    for target in range(9):
        flipped = member.copy()
        flipped[target] = rng.random(300) < 0.2
        scores = [
            cross_fit(rows_of(features), m, apart(9), LogisticRegression, labels=labels) for m in (member, flipped)
        ]
        np.testing.assert_array_equal(scores[0][target], scores[1][target])
        assert (scores[0] != scores[1]).any(), "the others learn from it"


class Nearest:
    """Remembers its pairs: whoever stands in its fit is found out."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        self.known = {tuple(x): 1.0 if member else -1.0 for x, member in zip(X, y, strict=True)}

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return np.array([self.known.get(tuple(x), 0.0) for x in X])


def test_no_target_stands_in_its_own_fit() -> None:
    features, member = fleet(0, 8, 100, 0.0)
    assert (cross_fit(rows_of(features), member, apart(8), Nearest) == 0).all()


def test_pairs_are_balanced_and_limited() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((8, 8000)) < 0.3
    fits: list[np.ndarray] = []
    cross_fit(rows_of(rng.standard_normal((8, 8000, 1))), member, apart(8), lambda: MeanDifference(fits))
    assert [(len(y), y.sum()) for y in fits] == [(MOST_PAIRS, MOST_PAIRS // 2)] * CROSS_FITTING_FOLDS


def test_a_class_has_its_own_classifier_unless_it_is_rare() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((8, 400)) < 0.5
    labels = np.repeat([0, 1, 2], [190, 190, 20])
    turned = np.where(labels == 1, -1.0, 1.0)
    features = (rng.standard_normal((8, 400)) + 2 * turned * member)[:, :, None]
    together = cross_fit(rows_of(features), member, apart(8), LogisticRegression)
    each = cross_fit(rows_of(features), member, apart(8), LogisticRegression, labels=labels)
    assert LEAST_PAIRS > 6 * 20, "of the rarest class in six models"
    np.testing.assert_array_equal(each[:, labels == 2], together[:, labels == 2])
    for label in (0, 1):
        assert roc_auc(each[:, labels == label].ravel(), member[:, labels == label].ravel()) > 0.85


def test_without_members_elsewhere_there_is_no_score() -> None:
    features, member = fleet(0, 4, 10, 1.0)
    member[1:] = False
    scores = cross_fit(rows_of(features), member, apart(4), MeanDifference)
    assert np.isnan(scores[0]).all() and np.isfinite(scores[1:]).all() == member[0].any()


def test_the_seed_decides_alone() -> None:
    rng = np.random.default_rng(0)
    member, features = rng.random((8, 9000)) < 0.5, rng.standard_normal((8, 9000, 1))
    first, again, other = (
        cross_fit(rows_of(features), member, apart(8), MeanDifference, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
