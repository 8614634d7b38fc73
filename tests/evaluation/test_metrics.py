from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from palisade.evaluation.statistics.metrics import (
    Estimate,
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    ppv_estimate,
    roc_auc,
    roc_points,
    tnr_estimate,
    tpr_at_fpr,
    tpr_estimate,
)
from palisade.evaluation.statistics.roc import Ranking, Roc


def normal(seed: int, members: int, nonmembers: int, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = np.arange(members + nonmembers) < members
    return rng.standard_normal(len(member)) + effect * member, member


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores, often tied, of both members and non-members."""
    n = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.integers(5, size=n).astype(float) if draw(st.booleans()) else rng.standard_normal(n)
    member = rng.random(n) < 0.5
    member[:2] = True, False
    return scores, member


@settings(deadline=None, max_examples=50)
@given(scored())
def test_points_and_area_equal_those_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, member = data
    fpr, tpr, thresholds = roc_curve(member, scores, drop_intermediate=False)
    roc = roc_points(scores, member)
    np.testing.assert_allclose(roc.fpr, fpr)
    np.testing.assert_allclose(roc.tpr, tpr)
    np.testing.assert_array_equal(roc.thresholds, thresholds)
    assert roc_auc(scores, member) == pytest.approx(roc_auc_score(member, scores))
    assert advantage_estimate(scores, member).value == pytest.approx(max(tpr - fpr))
    assert accuracy_estimate(scores, member).value == pytest.approx(max(tpr + 1 - fpr) / 2)


@settings(deadline=None, max_examples=50)
@given(scored(), st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.5, 1.0]))
def test_tpr_is_the_largest_over_thresholds_whose_fpr_is_low_enough(
    data: tuple[np.ndarray, np.ndarray], fpr: float
) -> None:
    scores, member = data
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        if called[~member].mean() <= fpr:
            best = max(best, called[member].mean())
    tpr = tpr_at_fpr(scores, member, fpr)
    if fpr < 1 / (~member).sum():
        assert np.isnan(tpr)
    else:
        assert tpr == best


@settings(deadline=None, max_examples=25)
@given(scored(), st.integers(0, 2**32))
def test_weights_count_like_repeated_records(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, member = data
    weights = np.random.default_rng(seed).integers(4, size=len(scores))
    weights[:2] = 1
    weighted = Ranking(scores, member).roc(weights.astype(float))
    repeated = roc_points(np.repeat(scores, weights), np.repeat(member, weights))
    assert weighted.auc() == pytest.approx(repeated.auc())
    assert weighted.advantage() == pytest.approx(repeated.advantage())


def test_ties_move_together() -> None:
    _, member = normal(0, 50, 50)
    tied = np.zeros(100)
    assert roc_auc(tied, member) == 0.5
    assert tpr_at_fpr(tied, member, 0.1) == 0.0
    scores = np.where(member, 1.0, 0.0)
    scores[-1] = 1.0  # one non-member among all members: an attacker cannot have them without it
    assert tpr_at_fpr(scores, member, 0.02) == 1.0
    scores[-2] = 1.0
    assert tpr_at_fpr(scores, member, 0.02) == 0.0


def test_the_rate_itself_is_allowed_and_less_cannot_be_resolved() -> None:
    scores, member = normal(0, 1000, 1000)
    assert tpr_at_fpr(scores, member, 0.001) == (scores[member] > np.sort(scores[~member])[-2]).mean()
    assert np.isnan(tpr_at_fpr(scores, member, 0.00099))
    assert all(np.isnan(tpr_estimate(scores, member, 0.00099)))
    assert tpr_at_fpr(scores, member, 1.0) == 1.0


def test_infinite_scores_rank() -> None:
    assert roc_auc(np.array([np.inf, 0.0, -np.inf]), np.array([True, True, False])) == 1.0


def test_precision_of_guessing_is_the_prior() -> None:
    scores, member = normal(0, 20000, 20000, effect=0.0)
    assert ppv_estimate(scores, member, 0.1, fpr=0.2).value == pytest.approx(0.1, abs=0.005)
    scores, member = normal(0, 20000, 20000, effect=9.0)
    assert ppv_estimate(scores, member, 0.01, fpr=0.01).value == pytest.approx(0.01 / (0.01 + 0.99 * 0.01), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.array([0.0, np.nan, np.nan])}, "scores: 2 are NaN; leave these records out"),
        ({"scores": np.zeros(2)}, r"members=.*: expected a Boolean a score, scores.shape=\(2,\)"),
        (
            {"scores": np.zeros((1, 3))},
            r"members=.*: expected a Boolean a score, scores.shape=\(1, 3\); pass one model",
        ),
        ({"members": np.array([0, 1, 1])}, r"members=int64 of shape \(3,\)"),
        ({"members": np.zeros(3, bool)}, "members=0 of n=3: expected members and non-members"),
        ({"members": np.ones(3, bool)}, "members=3 of n=3: expected members and non-members"),
        ({"fpr": 1.5}, "fpr=1.5: expected a rate >= 0 and <= 1; "),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"scores": np.arange(3.0), "members": np.array([False, True, True]), "fpr": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        tpr_at_fpr(**arguments)


ESTIMATE_FUNCTIONS: dict[str, Callable[..., Estimate]] = {
    "auc": auc_estimate,
    "tpr": partial(tpr_estimate, fpr=0.1),
    "tnr": partial(tnr_estimate, fnr=0.1),
    "advantage": advantage_estimate,
    "balanced_accuracy": accuracy_estimate,
    "ppv": partial(ppv_estimate, prior=0.1, fpr=0.1),
}
VALUE_FUNCTIONS = {
    "auc": Roc.auc,
    "tpr": partial(Roc.tpr_at, fpr=0.1),
    "tnr": partial(Roc.tnr_at, fnr=0.1),
    "advantage": Roc.advantage,
    "balanced_accuracy": Roc.balanced_accuracy,
    "ppv": partial(Roc.ppv, prior=0.1, fpr=0.1),
}


@pytest.mark.parametrize("metric", ESTIMATE_FUNCTIONS)
def test_a_band_is_around_the_value(metric: str) -> None:
    measure = ESTIMATE_FUNCTIONS[metric]
    for data in (normal(0, 300, 200), normal(0, 300, 200, effect=9.0), normal(0, 300, 200, effect=0.0)):
        estimate = measure(*data)
        assert estimate.low <= estimate.value <= estimate.high
        wider = measure(*data, alpha=0.01)
        assert wider.low <= estimate.low
        assert estimate.high <= wider.high
        assert estimate.value == VALUE_FUNCTIONS[metric](roc_points(*data))


@pytest.mark.parametrize("metric", ESTIMATE_FUNCTIONS)
def test_confidence_is_checked(metric: str) -> None:
    with pytest.raises(ValueError, match=r"alpha=0\.0: expected an error rate > 0 and < 1; "):
        ESTIMATE_FUNCTIONS[metric](*normal(0, 50, 50), alpha=0.0)


@settings(deadline=None, max_examples=50)
@given(scored(), st.sampled_from([0.05, 0.1, 0.3, 1 / 3, 0.7, 0.9, 1.0]))
def test_clearing_non_members_is_the_opposite_question(data: tuple[np.ndarray, np.ndarray], fnr: float) -> None:
    scores, member = data
    mirrored = tpr_at_fpr(-scores, ~member, fnr)
    assert roc_points(scores, member).tnr_at(fnr) == pytest.approx(mirrored, nan_ok=True)
    assert tnr_estimate(scores, member, fnr).value == pytest.approx(mirrored, nan_ok=True)


def test_a_rate_of_misses_is_a_share() -> None:
    with pytest.raises(ValueError, match="fnr=2: expected a rate >= 0 and <= 1; "):
        tnr_estimate(*normal(0, 5, 5), 2)


def test_a_prior_is_a_share() -> None:
    with pytest.raises(ValueError, match="prior=0: expected a share of members > 0 and < 1; "):
        ppv_estimate(*normal(0, 5, 5), 0, fpr=1.0)
