from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from palisade.evaluation.statistics.metrics import (
    Called,
    Estimate,
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    auc_interval,
    clopper_pearson_interval,
    ppv_estimate,
    roc_band,
    roc_points,
    tpr_estimate,
)

Draw = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]


def normal(seed: int, members: int, nonmembers: int, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = np.arange(members + nonmembers) < members
    return rng.standard_normal(len(member)) + effect * member, member


def few_exposed(seed: int, members: int, nonmembers: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, but one member in twenty is given away: the shape of most real attacks."""
    rng = np.random.default_rng(seed)
    member = np.arange(members + nonmembers) < members
    return rng.standard_normal(len(member)) + 5 * (member & (rng.random(len(member)) < 0.05)), member


def tied(seed: int, members: int, nonmembers: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = np.arange(members + nonmembers) < members
    return rng.poisson(np.where(member, 2.0, 0.8)).astype(float), member


def coverage(truth: float, estimates: list[Estimate]) -> float:
    assert all(low <= value <= high for value, low, high in estimates)
    return float(np.mean([low <= truth <= high for _, low, high in estimates]))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (450, 1000)])
def test_clopper_pearson_equals_scipys_exact_interval(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson_interval(successes, trials) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("members", "nonmembers", "fpr"),
    [(200, 200, 0.05), *(pytest.param(*sizes, 0.01, marks=pytest.mark.slow) for sizes in ((100, 1000), (300, 100)))],
)
def test_intervals_of_one_model_cover_the_true_rate(members: int, nonmembers: int, fpr: float) -> None:
    truth = stats.norm.sf(stats.norm.isf(fpr) - 1.0)
    estimates = [tpr_estimate(*normal(seed, members, nonmembers), fpr) for seed in range(500)]
    assert np.mean([low <= truth <= high for _, low, high in estimates]) >= 0.93
    assert all(low <= value <= high for value, low, high in estimates)


def test_the_band_holds_with_ties() -> None:
    threshold, covered = 2.0, []  # scores are whole numbers: P(score > 2) ≤ 0.05 < P(score ≥ 2)
    truth = stats.poisson.sf(threshold, 2.0)
    assert stats.poisson.sf(threshold, 0.8) <= 0.05 < stats.poisson.sf(threshold - 1, 0.8)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = np.arange(400) < 200
        _, low, high = tpr_estimate(rng.poisson(np.where(member, 2.0, 0.8)).astype(float), member, 0.05)
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.93


def test_the_ends_of_the_band_do_not_split_ties() -> None:
    scores, member = np.tile(np.arange(100.0), 2), np.arange(200) < 100  # each member ties with one non-member
    least, most = (int(stats.binom.ppf(level, 100, 0.05)) for level in (0.0125, 0.9875))
    _, low, high = tpr_estimate(scores, member, 0.05)
    assert low == clopper_pearson_interval(least - 1, 100, 0.025)[0]
    assert high == clopper_pearson_interval(most + 1, 100, 0.025)[1]


@pytest.mark.parametrize(("members", "nonmembers"), [(60, 40), pytest.param(200, 500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (normal, stats.norm.cdf(1 / np.sqrt(2))),
        (lambda *sizes: normal(*sizes, effect=0.0), 0.5),
        (lambda *sizes: normal(*sizes, effect=3.0), stats.norm.cdf(3 / np.sqrt(2))),
        (few_exposed, 0.5 * 0.95 + 0.05 * stats.norm.cdf(5 / np.sqrt(2))),
        (tied, sum(stats.poisson.pmf(k, 2.0) * (stats.poisson.cdf(k, 0.8) - stats.poisson.pmf(k, 0.8) / 2)
                   for k in range(40))),
    ],
)  # fmt: skip
def test_the_interval_of_the_area_covers_it(draw: Draw, truth: float, members: int, nonmembers: int) -> None:
    estimates = [auc_estimate(*draw(seed, members, nonmembers)) for seed in range(300)]
    assert coverage(truth, estimates) >= 0.93


def test_the_area_at_perfect_separation_is_as_certain_as_disjoint_pairs_make_it() -> None:
    low, high = auc_interval(np.arange(50.0) + 100, np.arange(80.0), 0.05)
    assert (low, high) == (clopper_pearson_interval(50, 50)[0], 1.0)
    low, high = auc_interval(np.zeros(50), np.zeros(80), 0.05)
    assert low < 0.5 < high


def test_the_variance_of_the_area_is_that_of_delong() -> None:
    scores, member = normal(0, 30, 20)
    x, y = scores[member], scores[~member]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    variance = wins.mean(axis=1).var(ddof=1) / 30 + wins.mean(axis=0).var(ddof=1) / 20
    trials = wins.mean() * (1 - wins.mean()) / variance
    assert trials < 3 * 30 * 20 / 51
    assert auc_interval(x, y, 0.05) == pytest.approx(clopper_pearson_interval(wins.mean() * trials, trials))


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (normal, 2 * stats.norm.cdf(0.5) - 1),
        (lambda *sizes: normal(*sizes, effect=0.0), 0.0),
        (few_exposed, -minimize_scalar(lambda t: -0.05 * (stats.norm.sf(t - 5) - stats.norm.sf(t))).fun),
        (tied, max(stats.poisson.sf(k, 2.0) - stats.poisson.sf(k, 0.8) for k in range(10))),
    ],
)
def test_the_band_of_the_advantage_covers_the_truly_best_threshold(draw: Draw, truth: float) -> None:
    estimates = [advantage_estimate(*draw(seed, 100, 150)) for seed in range(300)]
    assert coverage(truth, estimates) >= 0.93
    halves = [accuracy_estimate(*draw(seed, 100, 150)) for seed in range(300)]
    assert coverage(0.5 + truth / 2, halves) >= 0.93


@pytest.mark.parametrize("threshold", [0.5, 2.5])
def test_intervals_at_a_threshold_from_other_data_cover(threshold: float) -> None:
    tpr, fpr = stats.norm.sf(threshold - 1), stats.norm.sf(threshold)
    estimates = [Called.at(*normal(seed, 100, 150), threshold).balanced_accuracy() for seed in range(300)]
    assert coverage(0.5 + (tpr - fpr) / 2, estimates) >= 0.93


def test_the_band_of_the_precision_covers() -> None:
    tpr = stats.norm.sf(stats.norm.isf(0.05) - 1)
    estimates = [ppv_estimate(*normal(seed, 200, 200), 0.1, fpr=0.05) for seed in range(300)]
    assert coverage(0.1 * tpr / (0.1 * tpr + 0.9 * 0.05), estimates) >= 0.93


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_the_band_of_the_curve_covers_all_of_it_at_once(effect: float) -> None:
    fprs = np.geomspace(1 / 300, 1, 200)
    truth, inside = stats.norm.sf(stats.norm.isf(fprs) - effect), []
    for seed in range(120):
        band = roc_band(roc_points(*normal(seed, 200, 300, effect=effect)))
        left = np.searchsorted(band.fpr * (1 - 1e-12), fprs, side="right") - 1
        right = np.searchsorted(band.fpr * (1 + 1e-12), fprs)
        inside.append(((band.low[left] <= truth) & (truth <= band.high[right])).all())
    assert np.mean(inside) >= 0.95


def test_the_band_of_the_curve_rises_around_it() -> None:
    scores, member = normal(0, 2000, 2000)
    roc = roc_points(scores, member)
    band = roc_band(roc)
    assert (np.diff(band.low) >= 0).all()
    assert (np.diff(band.high) >= 0).all()
    estimates = np.array([roc.tpr_at(min(fpr, 1.0)) for fpr in band.fpr])
    assert ((band.low <= estimates) & (estimates <= band.high)).all()
    assert (band.high - band.low)[1] < 0.1  # narrow at low FPRs, too
