from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import BASE, LossThreshold, View
from palisade.evaluation.statistics.metrics import roc_auc

Make = Callable[..., View]


def naive(phi: np.ndarray, member: np.ndarray, group: np.ndarray, temperature: float) -> np.ndarray:
    """The definition, one target and record at a time. The logits are (φ, 0)."""
    p = 1 / (1 + np.exp(-phi / temperature))
    scores = np.full(phi.shape, np.nan)
    for k, x in np.ndindex(phi.shape):
        inside = [p[j, x] for j in range(len(p)) if group[j] != group[k] and member[j, x]]
        outside = [p[j, x] for j in range(len(p)) if group[j] != group[k] and not member[j, x]]
        if inside and outside:
            scores[k, x] = np.log(p[k, x]) - np.log((np.mean(inside) + np.mean(outside)) / 2)
    return scores


def simulated(seed: int, effect: float, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """φ of records of different hardness, on which training has an effect."""
    rng = np.random.default_rng(seed)
    member = rng.random((12, 1500)) < 0.5
    return offset + 3 * rng.standard_normal(1500) + rng.standard_normal((12, 1500)) + effect * member, member


def mean_auc(scores: np.ndarray, member: np.ndarray) -> float:
    scored = ~np.isnan(scores)
    rows = zip(scores, member, scored, strict=True)
    return float(np.mean([roc_auc(row[has_score], truth[has_score]) for row, truth, has_score in rows]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(3, 7), st.sampled_from([1.0, 2.0]), st.booleans())
def test_equals_a_loop_over_targets_and_records(
    view_of: Make, seed: int, models: int, temperature: float, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    phi, member = 4 * rng.standard_normal((models, 6)), rng.random((models, 6)) < 0.5
    group = rng.integers(models, size=models) if grouped else np.arange(models)
    view, attack = view_of(phi, member, group), BASE(temperature=temperature)
    if attack.missing(view) is None:
        np.testing.assert_allclose(attack.score(view), naive(phi, member, group, temperature), rtol=1e-9, atol=1e-12)


def test_a_targets_membership_never_enters_its_scores(view_of: Make) -> None:
    phi, member = simulated(0, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    views = [view_of(phi, rows) for rows in (member, flipped)]
    np.testing.assert_array_equal(*(BASE().score(view)[3] for view in views))
    for view in views:
        view.__dict__["others"] = np.ones((12, 12), dtype=bool)
    faulty = [BASE().score(view)[3] for view in views]
    assert (faulty[0] != faulty[1]).mean() > 0.9, "a target in its own fit is caught"


def test_null_gives_guessing(view_of: Make) -> None:
    phi, member = simulated(0, 0.0)
    assert mean_auc(BASE().score(view_of(phi, member)), member) == pytest.approx(0.5, abs=0.02)


def test_finds_more_than_a_threshold(view_of: Make) -> None:
    phi, member = simulated(0, 2.0)
    view = view_of(phi, member)
    assert mean_auc(BASE().score(view), member) > 0.85 > mean_auc(LossThreshold().score(view), member)


def test_float64_tells_what_float32_rounds_away(view_of: Make) -> None:
    phi, member = simulated(0, 2.0, offset=45.0)  # 1 − p is about 1e-10, which float32 cannot tell from 0
    assert mean_auc(BASE().score(view_of(phi, member)), member) > 0.75


def test_a_record_without_a_side_has_no_score(view_of: Make) -> None:
    phi, member = simulated(0, 1.0)
    member[:, 0], member[:, 1], member[:, 2] = True, False, np.arange(12) == 0
    scores = BASE().score(view_of(phi, member))
    assert np.isnan(scores[:, :2]).all()
    np.testing.assert_array_equal(np.isnan(scores[:, 2]), member[:, 2])


def test_probabilities_that_underflow_stay_finite(view_of: Make) -> None:
    phi, member = simulated(0, 1.0, offset=-1e4)
    scores = BASE().score(view_of(phi, member))
    assert np.isfinite(scores[:, (member.sum(axis=0) > 1) & (member.sum(axis=0) < 11)]).all()


def test_names_and_errors() -> None:
    assert (BASE.name, BASE().threat.shadows, BASE().threat.population) == ("base", "online", False)
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        BASE(temperature=0.0)
