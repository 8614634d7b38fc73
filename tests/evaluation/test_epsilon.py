import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from palisade.evaluation.statistics.epsilon import (
    clopper_pearson,
    gaussian_epsilon,
    gdp,
    one_run,
    one_run_fdp,
    tpr_ceiling,
)
from palisade.evaluation.statistics.metrics import clopper_pearson_interval

ERROR_RATES = np.array([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0])


def gaussian_curve(mu: float, epsilon: np.ndarray) -> np.ndarray:
    """δ(ε) of a Gaussian mechanism (Balle & Wang 2018), the last term in logs."""
    delta = norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
    return np.stack([epsilon, np.clip(delta, 0, 1)], axis=1)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 8.0])
def test_pure_privacy_has_its_two_lines(epsilon: float) -> None:
    expected = np.minimum(np.exp(epsilon) * ERROR_RATES, 1 - np.exp(-epsilon) * (1 - ERROR_RATES))
    np.testing.assert_allclose(tpr_ceiling(ERROR_RATES, np.array([[epsilon, 0.0]])), expected, atol=1e-15)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_many_points_of_a_gaussian_mechanism_meet_its_exact_curve(mu: float) -> None:
    rates = ERROR_RATES[1:-1]
    exact = norm.cdf(norm.ppf(rates) + mu)
    ceiling = tpr_ceiling(rates, gaussian_curve(mu, np.linspace(0, 25, 4000)))
    assert (ceiling >= exact - 1e-12).all()
    np.testing.assert_allclose(ceiling, exact, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 3), st.lists(st.floats(0, 20), min_size=1, max_size=6))
def test_few_points_only_loosen_it(mu: float, points: list[float]) -> None:
    ceiling = tpr_ceiling(ERROR_RATES, gaussian_curve(mu, np.array(points)))
    assert (ceiling >= norm.cdf(norm.ppf(ERROR_RATES) + mu) - 1e-12).all()
    assert (ceiling >= ERROR_RATES).all()
    assert (ceiling <= 1).all()


def test_no_privacy_and_perfect_privacy() -> None:
    np.testing.assert_array_equal(tpr_ceiling(ERROR_RATES, np.array([[0.0, 0.0]])), ERROR_RATES)
    np.testing.assert_array_equal(tpr_ceiling(ERROR_RATES, np.array([[3.0, 1.0]])), np.ones(8))
    huge = tpr_ceiling(ERROR_RATES, np.array([[5000.0, 1e-5], [np.inf, 0.0]]))
    np.testing.assert_array_equal(huge, [0.0, *np.ones(7)])


@pytest.mark.parametrize(
    ("rates", "curve", "message"),
    [
        ([1.2], [[1.0, 0.0]], "fpr=1.2..1.2: expected rates >= 0 and <= 1"),
        ([0.1], [1.0, 0.0], r"curve.shape=\(2,\): expected rows \(ε, δ\), at least one"),
        ([0.1], np.empty((0, 2)), r"curve.shape=\(0, 2\): expected rows"),
        ([0.1], [[-1.0, 0.0]], "curve: expected rows with ε >= 0"),
        ([0.1], [[1.0, np.nan]], "curve: expected rows with ε >= 0"),
    ],
)
def test_what_is_no_curve_is_refused(rates: list[float], curve: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tpr_ceiling(np.array(rates), np.array(curve))


def reference_p(canaries: int, guesses: int, correct: int, delta: float, epsilon: float) -> float:
    """Steinke, Nasr & Jagielski (2023), appendix D, term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    total, alpha = 0.0, 0.0
    for i in range(1, correct + 1):
        total += binom.pmf(correct - i, guesses, q)
        alpha = max(alpha, total / i)
    return min(1.0, binom.sf(correct - 1, guesses, q) + 2 * canaries * delta * alpha)


def reference_falsified(canaries: int, guesses: int, correct: int, p: float, mu: float) -> bool:
    """Mahloujifar, Melis & Chaudhuri (2024), algorithm 1, step by step."""
    r, h = p * correct / canaries, p * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        raised = max(h, ndtr(ndtri(r) - mu))
        r, h = min(1.0, r + i / (guesses - i) * (raised - h)), raised
    return r + h > guesses / canaries


@pytest.mark.parametrize(
    ("tp", "members", "fp", "nonmembers", "expected"),
    [(100, 100, 0, 100, 3.2813), (1000, 1000, 0, 1000, 5.6006), (500, 1000, 100, 1000, 1.3598), (50, 100, 50, 100, 0)],
)
def test_clopper_pearson_has_its_known_values(tp: int, members: int, fp: int, nonmembers: int, expected: float) -> None:
    assert clopper_pearson(tp, members, fp, nonmembers, 0.0, 0.05) == pytest.approx(expected, abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 1e-5, 0.2]), st.sampled_from([0.05, 0.2]))
def test_clopper_pearson_is_the_larger_of_both_directions(tp: int, fp: int, delta: float, alpha: float) -> None:
    fnr = clopper_pearson_interval(60 - tp, 60, alpha)[1]
    fpr = clopper_pearson_interval(fp, 60, alpha)[1]
    ratios = [(1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr]
    expected = max([math.log(ratio) for ratio in ratios if ratio > 0], default=0.0)
    assert clopper_pearson(tp, 60, fp, 60, delta, alpha) == pytest.approx(max(expected, 0.0))
    # Clearing non-members is as much of a leak as accusing members.
    assert clopper_pearson(tp, 60, fp, 60, delta, alpha) == pytest.approx(
        clopper_pearson(60 - fp, 60, 60 - tp, 60, delta, alpha)
    )


@pytest.mark.parametrize(("mu", "expected"), [(1.0, 4.3772), (2.0, 9.9973)])
def test_a_gaussian_mechanism_has_its_known_epsilon(mu: float, expected: float) -> None:
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(expected, abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-3, 60), st.sampled_from([1e-12, 1e-5, 0.1]))
def test_epsilon_of_a_gaussian_mechanism_inverts_its_curve(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    curve = gaussian_curve(mu, np.array([epsilon, epsilon + 1e-4]))[:, 1]
    assert curve[1] <= delta * (1 + 1e-6)
    assert epsilon == 0 or curve[0] >= delta * (1 - 1e-3)


def test_gdp_is_the_epsilon_of_the_gaussian_between_the_error_rates() -> None:
    fnr, fpr = clopper_pearson_interval(500, 1000)[1], clopper_pearson_interval(100, 1000)[1]
    assert gdp(500, 1000, 100, 1000, 1e-5) == gaussian_epsilon(norm.ppf(1 - fpr) - norm.ppf(fnr), 1e-5) > 0
    assert gdp(500, 1000, 100, 1000, 1e-5) > clopper_pearson(500, 1000, 100, 1000, 1e-5)


@pytest.mark.parametrize("bound", [gdp, clopper_pearson])
def test_an_attack_below_chance_proves_nothing(bound) -> None:  # type: ignore[no-untyped-def]
    assert bound(100, 1000, 500, 1000, 1e-5) == bound(0, 100, 100, 100, 1e-5) == 0.0


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "expected"),
    [(100, 100, 100, 0.0, 3.4930), (1000, 100, 90, 1e-5, 1.6261), (1000, 100, 50, 1e-5, 0.0)],
)
def test_one_run_has_its_known_values(canaries: int, guesses: int, correct: int, delta: float, expected: float) -> None:
    assert one_run(canaries, guesses, correct, delta, 0.05) == pytest.approx(expected, abs=5e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([0.0, 1e-5, 1e-3]), st.sampled_from([0.05, 0.01]))
def test_one_run_is_where_the_p_value_of_the_paper_crosses(guesses: int, share: float, delta: float, p: float) -> None:
    counts = 100, guesses, round(share * guesses), delta
    epsilon = one_run(*counts, p)
    assert reference_p(*counts, epsilon + 1e-5) > p
    assert epsilon == 0 or reference_p(*counts, epsilon) <= p


def test_one_run_fdp_has_its_known_value() -> None:
    assert one_run_fdp(1000, 100, 100, 1e-5, 0.05) == pytest.approx(5.549, abs=5e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([0.05, 0.01]))
def test_one_run_fdp_is_the_last_gaussian_that_is_falsified(guesses: int, share: float, p: float) -> None:
    correct = round(share * guesses)
    epsilon = one_run_fdp(100, guesses, correct, 1e-5, p)
    mus = np.linspace(0, 5, 101)
    falsified = [reference_falsified(100, guesses, correct, p, mu) for mu in mus]
    last = max((mu for mu, is_falsified in zip(mus, falsified, strict=True) if is_falsified), default=0.0)
    assert gaussian_epsilon(last, 1e-5) - 1e-4 <= epsilon <= gaussian_epsilon(last + 0.05, 1e-5) + 1e-4


def test_a_gaussian_shape_finds_more_and_stricter_claims_less() -> None:
    for correct in (70, 90, 100):
        assert one_run_fdp(1000, 100, correct, 1e-5) >= one_run(1000, 100, correct, 1e-5)
    for bound in (one_run, one_run_fdp):
        assert bound(1000, 100, 90, 1e-5, 0.001) < bound(1000, 100, 90, 1e-5, 0.05) < bound(1000, 100, 95, 1e-5, 0.05)
    assert one_run(1000, 100, 90, 1e-4) < one_run(1000, 100, 90, 0.0)


def test_extreme_counts_have_bounds() -> None:
    for bound in (one_run, one_run_fdp):
        assert bound(1000, 0, 0, 1e-5) == bound(1000, 100, 0, 1e-5) == bound(0, 0, 0, 1e-5) == 0.0
        assert 8 < bound(50_000, 50_000, 50_000, 1e-5) < 30
    assert one_run(50_000, 50_000, 50_000, 0.0) == pytest.approx(-math.log(0.05 ** (-1 / 50_000) - 1), abs=1e-5)
    assert 400 < gdp(10**9, 10**9, 0, 10**9, 1e-300) < 600
    assert clopper_pearson(10**9, 10**9, 0, 10**9) == pytest.approx(math.log(10**9 / -math.log(0.025)), abs=1e-6)
    assert clopper_pearson(100, 100, 0, 100, 0.999) == 0.0


def test_no_gaussian_mechanism_has_a_finite_epsilon_without_delta() -> None:
    assert gdp(500, 1000, 100, 1000, 0.0) == one_run_fdp(1000, 100, 100, 0.0) == math.inf
    assert gdp(100, 1000, 500, 1000, 0.0) == one_run_fdp(1000, 100, 50, 0.0) == 0.0


def test_bounds_of_large_audits_take_no_time() -> None:
    begin = time.process_time()
    for correct in (5_300, 9_000, 10_000):
        one_run(50_000, 10_000, correct, 1e-5)
        one_run_fdp(50_000, 10_000, correct, 1e-5)
    assert time.process_time() - begin < 6 * 0.05


@pytest.mark.parametrize("bound", [gdp, clopper_pearson])
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((11, 10, 0, 10, 0.0), "tp=11, members=10: expected 0 <= tp <= members"),
        ((1, 10, -1, 10, 0.0), "fp=-1, nonmembers=10: expected 0 <= fp <= nonmembers"),
        ((0, 0, 0, 10, 0.0), "tp=0, members=0: expected 0 <= tp <= members and members >= 1"),
        ((1, 10, 1, 10, 1.0), "delta=1.0: expected a probability >= 0 and < 1; choose that of the claim"),
        ((1, 10, 1, 10, 0.0, 1.0), "alpha=1.0: expected an error rate > 0 and < 1; choose e.g. 0.05"),
    ],
)
def test_what_are_no_trials_is_refused(bound, counts: tuple[float, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        bound(*counts)


@pytest.mark.parametrize("bound", [one_run, one_run_fdp])
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((10, 11, 5, 0.0), "canaries=10, guesses=11, correct=5: expected correct <= guesses <= canaries"),
        ((10, 5, 6, 0.0), "canaries=10, guesses=5, correct=6: expected correct <= guesses"),
        ((10, 5, 5, -0.1), "delta=-0.1: expected a probability >= 0 and < 1"),
        ((10, 5, 5, 0.0, 0.0), "p=0.0: expected an error rate > 0 and < 1"),
    ],
)
def test_what_are_no_guesses_is_refused(bound, counts: tuple[float, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        bound(*counts)
