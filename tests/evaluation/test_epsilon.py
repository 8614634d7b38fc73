import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from evaluation.epsilon import tpr_ceiling

RATES = np.array([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0])


def gaussian_curve(mu: float, epsilon: np.ndarray) -> np.ndarray:
    """δ(ε) of a Gaussian mechanism (Balle & Wang 2018), the last term in logs."""
    delta = norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
    return np.stack([epsilon, np.clip(delta, 0, 1)], axis=1)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 8.0])
def test_pure_privacy_has_its_two_lines(epsilon: float) -> None:
    expected = np.minimum(np.exp(epsilon) * RATES, 1 - np.exp(-epsilon) * (1 - RATES))
    np.testing.assert_allclose(tpr_ceiling(RATES, np.array([[epsilon, 0.0]])), expected, atol=1e-15)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_many_points_of_a_gaussian_mechanism_meet_its_exact_curve(mu: float) -> None:
    rates = RATES[1:-1]
    exact = norm.cdf(norm.ppf(rates) + mu)
    ceiling = tpr_ceiling(rates, gaussian_curve(mu, np.linspace(0, 25, 4000)))
    assert (ceiling >= exact - 1e-12).all()
    np.testing.assert_allclose(ceiling, exact, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 3), st.lists(st.floats(0, 20), min_size=1, max_size=6))
def test_few_points_only_loosen_it(mu: float, points: list[float]) -> None:
    ceiling = tpr_ceiling(RATES, gaussian_curve(mu, np.array(points)))
    assert (ceiling >= norm.cdf(norm.ppf(RATES) + mu) - 1e-12).all()
    assert (ceiling >= RATES).all()
    assert (ceiling <= 1).all()


def test_no_privacy_and_perfect_privacy() -> None:
    np.testing.assert_array_equal(tpr_ceiling(RATES, np.array([[0.0, 0.0]])), RATES)
    np.testing.assert_array_equal(tpr_ceiling(RATES, np.array([[3.0, 1.0]])), np.ones(8))
    huge = tpr_ceiling(RATES, np.array([[5000.0, 1e-5], [np.inf, 0.0]]))
    np.testing.assert_array_equal(huge, [0.0, *np.ones(7)])


@pytest.mark.parametrize(
    ("rates", "curve", "message"),
    [
        ([1.2], [[1.0, 0.0]], "fpr=1.2..1.2; rates lie between 0 and 1"),
        ([0.1], [1.0, 0.0], r"curve.shape=\(2,\); pass rows \(ε, δ\), at least one"),
        ([0.1], np.empty((0, 2)), r"curve.shape=\(0, 2\); pass rows"),
        ([0.1], [[-1.0, 0.0]], "curve holds a row outside ε ≥ 0"),
        ([0.1], [[1.0, np.nan]], "curve holds a row outside ε ≥ 0"),
    ],
)
def test_what_is_no_curve_is_refused(rates: list[float], curve: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tpr_ceiling(np.array(rates), np.array(curve))
