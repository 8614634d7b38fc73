"""The accountants against Opacus and published values, and the search for σ."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from defenses.dp_sgd import calibration
from defenses.dp_sgd.calibration import accounted, calibrate, privacy_curve, rdp_epsilon

TABLE = [  # q, σ, steps, RDP, PRV, Google's PLD; δ = 1e-5
    (0.0256, 1.0, 1170, 6.128, 5.581, 5.570),
    (0.01, 1.0, 1000, 2.101, 1.838, 1.828),
    (0.02, 0.5, 1000, 27.28, 24.32, 24.31),
    (0.05, 0.6, 20, 8.108, 6.724, 6.713),
]


@pytest.mark.parametrize(("rate", "sigma", "steps", "rdp", "prv", "pld"), TABLE)
def test_published_values(rate: float, sigma: float, steps: int, rdp: float, prv: float, pld: float) -> None:
    spent = accounted(sigma, rate, steps, 1e-5)
    assert spent.accountant == "PRV"
    assert spent.epsilon_rdp == pytest.approx(rdp, rel=1e-3)
    assert spent.epsilon == pytest.approx(prv, rel=3e-3)
    assert spent.epsilon >= pld


@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.0256, 1.0, 1170), (0.05, 0.6, 20), (0.02, 20.0, 100)])
def test_equals_opacus(rate: float, sigma: float, steps: int) -> None:
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history = prv.history = [(sigma, rate, steps)]
    spent = accounted(sigma, rate, steps, 1e-5)
    assert spent.epsilon_rdp == rdp.get_epsilon(1e-5)
    assert spent.epsilon == pytest.approx(prv.get_epsilon(1e-5, eps_error=calibration._prv_error(spent.epsilon_rdp)))


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"),
    [(0.1, 0.0891, 360), (1.0, 0.05, 20), (8.0, 0.0891, 360), (64.0, 0.05, 20), (512.0, 0.05, 20)],
)
def test_calibrated_noise_spends_what_was_asked_for(epsilon: float, rate: float, steps: int) -> None:
    started = time.process_time()
    sigma = calibrate(epsilon, 1e-4, rate, steps)
    assert time.process_time() - started < 5
    assert 0.99 * epsilon <= accounted(sigma, rate, steps, 1e-4).epsilon <= epsilon


def test_large_epsilon_rests_on_rdp_alone() -> None:
    sigma = calibrate(2000.0, 1e-4, 0.1, 200)
    spent = accounted(sigma, 0.1, 200, 1e-4)
    assert spent.accountant == "RDP" and 1980 <= spent.epsilon <= 2000


def test_infinite_epsilon_is_clipping_only() -> None:
    assert calibrate(math.inf, 1e-5, 0.1, 100) == 0
    assert accounted(0.0, 0.1, 100, 1e-5).epsilon == math.inf
    assert privacy_curve(0.0, 0.1, 100) == ()


def test_more_noise_fewer_steps_and_larger_delta_spend_less() -> None:
    middle = accounted(1.0, 0.05, 200, 1e-5).epsilon
    assert accounted(1.2, 0.05, 200, 1e-5).epsilon < middle
    assert accounted(1.0, 0.05, 100, 1e-5).epsilon < middle
    assert accounted(1.0, 0.05, 200, 1e-4).epsilon < middle
    assert accounted(1.0, 0.05, 0, 1e-5).epsilon == rdp_epsilon(1.0, 0.05, 0, 1e-5) == 0


def test_hardly_any_privacy_loss_is_never_negative() -> None:
    assert 0 <= accounted(200.0, 0.001, 1, 1e-3).epsilon < 0.01


@pytest.mark.parametrize("sigma", [0.4, 1.0, 8.0])
def test_privacy_curve_bounds_delta_from_above(sigma: float) -> None:
    epsilon, delta = np.array(privacy_curve(sigma, 0.05, 200)).T
    assert 100 <= len(epsilon) <= 200 and epsilon[0] == 0
    assert (np.diff(epsilon) > 0).all() and (np.diff(delta) <= 1e-12).all() and ((delta >= 0) & (delta <= 1)).all()
    for wanted in (1e-2, 1e-4):
        spent = accounted(sigma, 0.05, 200, wanted)
        at = np.interp(spent.epsilon, epsilon, delta)
        if spent.epsilon <= epsilon[-1]:
            assert at <= wanted * 1.1  # as tight as the claim …
            true = spent.epsilon - 2 * calibration._prv_error(spent.epsilon_rdp)
            assert np.interp(true, epsilon, delta) >= wanted * 0.9  # … and no lower than the truth


def test_privacy_curve_of_one_gaussian_is_exact() -> None:
    from scipy.stats import norm

    mu = 1.0
    epsilon, delta = np.array(privacy_curve(1.0, 1.0, 1)).T
    exact = norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert (delta >= exact - 1e-12).all()
    assert np.abs(delta - exact).max() < 0.01


@pytest.mark.parametrize(
    ("epsilon", "delta", "message"),
    [
        (0.0, 1e-5, "epsilon=0.0 is not positive; choose a value above 0, or inf for clipping only"),
        (math.nan, 1e-5, "epsilon=nan is not positive"),
        (1.0, 1.0, "delta=1.0 is not a probability; choose a value between 0 and 1"),
    ],
)
def test_refusals(epsilon: float, delta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(epsilon, delta, 0.1, 10)
