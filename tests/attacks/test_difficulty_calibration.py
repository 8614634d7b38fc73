from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import Calibration, LossThreshold, View
from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr

Make = Callable[..., View]


def simulated(seed: int, models: int, records: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """φ of records of different hardness, on which training has an effect."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    return 3 * rng.standard_normal(records) + rng.standard_normal((models, records)) + effect * member, member


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(3, 7), st.booleans())
def test_equals_the_double_loop(view_of: Make, seed: int, models: int, grouped: bool) -> None:
    phi, member = simulated(seed, models, 6, 1.0)
    group = np.arange(models) // (2 if grouped else 1)
    view = view_of(phi, member, group)
    if Calibration().missing(view) is not None:
        return
    loss, scores = np.log1p(np.exp(-phi)), Calibration().score(view)
    for k, x in np.ndindex(models, 6):
        outside = loss[(group != group[k]) & ~member[:, x], x]
        expected = outside.mean() - loss[k, x] if len(outside) else np.nan
        np.testing.assert_allclose(scores[k, x], expected, rtol=1e-9, atol=1e-12)


def test_a_targets_membership_never_enters_its_scores(view_of: Make) -> None:
    phi, member = simulated(0, 6, 50, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    scores = [Calibration().score(view_of(phi, rows))[3] for rows in (member, flipped)]
    np.testing.assert_array_equal(*scores)


FLEET_COUNT = 40


def null_rates(view_of: Make, *, own_fit: bool) -> np.ndarray:
    """AUC and TPR at 5 % FPR of fleets on which training has no effect."""
    null_rows = []
    for seed in range(FLEET_COUNT):
        phi, member = simulated(seed, 8, 500, 0.0)
        view = view_of(phi, member)
        if own_fit:
            view.__dict__["others"] = np.ones((8, 8), dtype=bool)
        null_rows.append(rates(Calibration().score(view), member))
    return np.array(null_rows)


def rates(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    scored = ~np.isnan(scores)
    rows = [(s[ok], m[ok]) for s, m, ok in zip(scores, member, scored, strict=True)]
    return np.mean([(roc_auc(*row), tpr_at_fpr(*row, 0.05)) for row in rows], axis=0)


def test_null_fleets_give_guessing(view_of: Make) -> None:
    null_rows = null_rates(view_of, own_fit=False)
    assert (np.abs(null_rows.mean(axis=0) - [0.5, 0.05]) < 4 * null_rows.std(axis=0) / np.sqrt(FLEET_COUNT)).all()


def test_null_test_catches_a_target_among_its_own_references(view_of: Make) -> None:
    null_rows = null_rates(view_of, own_fit=True)
    assert null_rows[:, 1].mean() > 0.05 + 10 * null_rows[:, 1].std() / np.sqrt(FLEET_COUNT)


def test_difficulty_no_longer_hides_members(view_of: Make) -> None:
    phi, member = simulated(0, 16, 1500, 2.0)
    view = view_of(phi, member)
    assert rates(Calibration().score(view), member)[0] > rates(LossThreshold().score(view), member)[0] + 0.05


def test_a_record_that_all_others_trained_on_has_no_score(view_of: Make) -> None:
    phi, member = simulated(0, 6, 40, 1.0)
    member[:, 0], member[:, 1] = True, [False, True, True, True, True, True]
    scores = Calibration().score(view_of(phi, member))
    assert np.isnan(scores[:, 0]).all()
    assert np.isnan(scores[0, 1]) and np.isfinite(scores[1:, 1]).all()
    with pytest.raises(
        ValueError, match=r"attack=calibration: expected .* needs models that did not train on a record"
    ):
        Calibration().score(view_of(phi, np.ones((6, 40), dtype=bool)))
