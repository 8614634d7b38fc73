"""Used share of a file: right on average, and within its interval as often as promised."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.evaluation.record_test import UsedShare, used_share

SIMULATED_TRIALS = 300


def simulated(rng: np.random.Generator, share: float, effect: float, records: int, known: int) -> list[np.ndarray]:
    """Scores of records in question, of non-members and of members."""
    used = np.arange(records) < round(share * records)
    return [rng.normal(size=records) + effect * used, rng.normal(size=known), rng.normal(size=known) + effect]


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.3, 1.5])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_interval_covers_the_share(share: float, effect: float) -> None:
    rng = np.random.default_rng(0)
    shares = [used_share(*simulated(rng, share, effect, 200, 150), seed=trial) for trial in range(SIMULATED_TRIALS)]
    assert np.mean([one.low <= share <= one.high for one in shares]) >= 0.93
    bounded = [
        used_share(*simulated(rng, share, effect, 200, 150)[:2], seed=trial) for trial in range(SIMULATED_TRIALS)
    ]
    assert np.mean([one.low <= share for one in bounded]) >= 0.93
    assert all(one.value is None and one.high == 1.0 and one.known == 0 for one in bounded)


def test_it_is_debiased() -> None:
    rng = np.random.default_rng(1)
    shares = [used_share(*simulated(rng, 0.4, 1.5, 500, 500), seed=trial) for trial in range(100)]
    values = [one.value for one in shares]
    assert np.mean(values) == pytest.approx(0.4, abs=0.03)
    assert np.mean([one.high - one.low for one in shares]) < 0.5, "an interval that tells something"


def test_a_lower_bound_needs_no_member() -> None:
    rng = np.random.default_rng(2)
    scores, nonmembers, _ = simulated(rng, 1.0, 5.0, 300, 2000)
    assert used_share(scores, nonmembers).low > 0.9
    assert used_share(nonmembers[:300], nonmembers[300:]).low == 0.0


def test_scores_that_tell_nothing_bound_nothing() -> None:
    ties = np.zeros(40)
    assert used_share(ties, ties, ties) == UsedShare(None, 0.0, 1.0, 40)
    assert used_share(ties, ties) == UsedShare(None, 0.0, 1.0, 0)
