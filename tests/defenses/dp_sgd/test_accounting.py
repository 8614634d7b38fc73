"""The accountants against Opacus and published values, and the search for σ."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from jaxtyping import Float
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr
from user_modules import slow_but

from palisade.defenses.dp_sgd import accounting
from palisade.defenses.dp_sgd.accounting import History, Phase, accounted, calibrate, privacy_curve, rdp_epsilon

PUBLISHED_EPSILONS = [  # q, σ, steps, RDP, PRV, Google's PLD; δ = 1e-5
    (0.0256, 1.0, 1170, 6.128, 5.581, 5.570),
    (0.01, 1.0, 1000, 2.101, 1.838, 1.828),
    (0.02, 0.5, 1000, 27.28, 24.32, 24.31),
    (0.05, 0.6, 20, 8.108, 6.724, 6.713),
]


@pytest.mark.parametrize(("rate", "sigma", "steps", "rdp", "prv", "pld"), PUBLISHED_EPSILONS)
def test_published_values(rate: float, sigma: float, steps: int, rdp: float, prv: float, pld: float) -> None:
    spent = accounted((Phase(sigma, rate, steps),), 1e-5)
    assert spent.accountant == "PRV"
    assert spent.epsilon_rdp == pytest.approx(rdp, rel=1e-3)
    assert spent.epsilon == pytest.approx(prv, rel=3e-3)
    assert spent.epsilon >= pld


@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.0256, 1.0, 1170), (0.05, 0.6, 20), (0.02, 20.0, 100)])
def test_equals_opacus(rate: float, sigma: float, steps: int) -> None:
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history = prv.history = [(sigma, rate, steps)]
    spent = accounted((Phase(sigma, rate, steps),), 1e-5)
    assert spent.epsilon_rdp == rdp.get_epsilon(1e-5)
    assert spent.epsilon == pytest.approx(prv.get_epsilon(1e-5, eps_error=accounting._prv_error(spent.epsilon_rdp)))


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"),
    slow_but(
        [(0.1, 0.0891, 360), (8.0, 0.0891, 360)],
        [(0.1, 0.0891, 360), (1.0, 0.05, 20), (8.0, 0.0891, 360), (64.0, 0.05, 20), (512.0, 0.05, 20)],
    ),
)
def test_calibrated_noise_spends_what_was_asked_for(epsilon: float, rate: float, steps: int) -> None:
    started = time.process_time()
    sigma = calibrate(epsilon, 1e-4, rate, steps)
    assert time.process_time() - started < 5
    assert 0.99 * epsilon <= accounted((Phase(sigma, rate, steps),), 1e-4).epsilon <= epsilon
    assert sigma == float(f"{sigma:.6g}"), "the key of the noise follows from σ, on every processor alike"


def test_large_epsilon_rests_on_rdp_alone() -> None:
    sigma = calibrate(2000.0, 1e-4, 0.1, 200)
    spent = accounted((Phase(sigma, 0.1, 200),), 1e-4)
    assert spent.accountant == "RDP" and 1980 <= spent.epsilon <= 2000


def test_infinite_epsilon_is_clipping_only() -> None:
    assert calibrate(math.inf, 1e-5, 0.1, 100) == 0
    assert accounted((Phase(0.0, 0.1, 100),), 1e-5).epsilon == math.inf
    assert privacy_curve((Phase(0.0, 0.1, 100),)) == ()


def test_more_noise_fewer_steps_and_larger_delta_spend_less() -> None:
    middle = accounted((Phase(1.0, 0.05, 200),), 1e-5).epsilon
    assert accounted((Phase(1.2, 0.05, 200),), 1e-5).epsilon < middle
    assert accounted((Phase(1.0, 0.05, 100),), 1e-5).epsilon < middle
    assert accounted((Phase(1.0, 0.05, 200),), 1e-4).epsilon < middle
    assert accounted((Phase(1.0, 0.05, 0),), 1e-5).epsilon == rdp_epsilon((Phase(1.0, 0.05, 0),), 1e-5) == 0


def test_hardly_any_privacy_loss_is_never_negative() -> None:
    assert 0 <= accounted((Phase(200.0, 0.001, 1),), 1e-3).epsilon < 0.01


@pytest.mark.parametrize("sigma", [0.4, 1.0, 8.0])
def test_privacy_curve_bounds_delta_from_above(sigma: float) -> None:
    epsilon, delta = np.array(privacy_curve((Phase(sigma, 0.05, 200),))).T
    assert 100 <= len(epsilon) <= 200 and epsilon[0] == 0
    assert (np.diff(epsilon) > 0).all() and (np.diff(delta) <= 1e-12).all() and ((delta >= 0) & (delta <= 1)).all()
    for wanted in (1e-2, 1e-4):
        spent = accounted((Phase(sigma, 0.05, 200),), wanted)
        at = np.interp(spent.epsilon, epsilon, delta)
        if spent.epsilon <= epsilon[-1]:
            assert at <= wanted * 1.1  # as tight as the claim …
            true = spent.epsilon - 2 * accounting._prv_error(spent.epsilon_rdp)
            assert np.interp(true, epsilon, delta) >= wanted * 0.9  # … and no lower than the truth


def gaussian_delta(history: History, epsilon: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """The exact δ(ε) of steps without sampling, which are one Gaussian mechanism (Dong et al. 2022, corollary 3.3)."""
    mu = math.sqrt(sum(phase.steps / phase.noise_multiplier**2 for phase in history))
    log_first, log_second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return -np.exp(log_first) * np.expm1(log_second - log_first)


def gaussian_epsilon(history: History, delta: float) -> float:
    return brentq(lambda epsilon: gaussian_delta(history, np.array([epsilon]))[0] - delta, 0, 1000)


def test_privacy_curve_of_one_gaussian_is_exact() -> None:
    history = (Phase(1.0, 1.0, 1),)
    epsilon, delta = np.array(privacy_curve(history)).T
    exact = gaussian_delta(history, epsilon)
    assert (delta >= exact - 1e-12).all()
    assert np.abs(delta - exact).max() < 0.01


@pytest.mark.parametrize(
    "history",
    [(Phase(1.0, 1.0, 1), Phase(3.0, 1.0, 5), Phase(40.0, 1.0, 300)), (Phase(8.0, 1.0, 9), Phase(2.0, 1.0, 40))],
)
def test_several_phases_compose_as_gaussians_do(history: History) -> None:
    for delta in (1e-3, 1e-6, 1e-9):
        exact = gaussian_epsilon(history, delta)
        assert exact <= accounted(history, delta).epsilon <= 1.005 * exact
    epsilon, delta_of = np.array(privacy_curve(history)).T
    exact_delta = gaussian_delta(history, epsilon)
    assert (delta_of >= exact_delta - 1e-12).all() and np.abs(delta_of - exact_delta).max() < 0.02


def test_several_phases_equal_opacus_stepping_through_everything() -> None:
    history = (Phase(1.2, 0.05, 300), Phase(0.9, 0.02, 150))
    spent = accounted(history, 1e-5)
    for accountant, epsilon in ((PRVAccountant(), spent.epsilon), (RDPAccountant(), spent.epsilon_rdp)):
        for sigma, rate, steps in history:
            for _ in range(steps):
                accountant.step(noise_multiplier=sigma, sample_rate=rate)
        assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, rel=1e-3)
    parts = [accounted((phase,), 1e-5).epsilon for phase in history]
    assert max(parts) < spent.epsilon < sum(parts)


def test_steps_of_the_same_kind_are_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numerical composition takes minutes for thousands of phases."""
    composed = []
    compose = PRVAccountant._get_dprv
    monkeypatch.setattr(
        PRVAccountant, "_get_dprv", lambda self, **errors: composed.append(len(self.history)) or compose(self, **errors)
    )
    history = (*[Phase(1.3, 0.05, 2), Phase(2.0, 0.1, 1)] * 50, Phase(7.0, 0.5, 0), Phase(0.0, 0.1, 0))
    once = (Phase(1.3, 0.05, 100), Phase(2.0, 0.1, 50))
    assert accounted(history, 1e-5) == accounted(once, 1e-5)
    assert privacy_curve(history) == privacy_curve(once)
    assert composed == [2] * 4
    assert accounted((), 1e-5).epsilon == rdp_epsilon((), 1e-5) == 0 and privacy_curve(()) == ((0.0, 0.0),)


def test_a_phase_without_noise_leaves_nothing_proven() -> None:
    history = (Phase(2.0, 0.1, 100), Phase(0.0, 0.1, 100))
    spent = accounted(history, 1e-5)
    assert spent.epsilon == spent.epsilon_rdp == math.inf and privacy_curve(history) == ()


def test_many_trainings_take_seconds() -> None:
    """Ten of SELENA's sub-models and the student, beyond what a claim could still say something of."""
    started = time.process_time()
    assert accounted((Phase(1.0, 0.1, 9000), Phase(1.1, 0.05, 1000)), 1e-5).accountant == "PRV"
    assert time.process_time() - started < 3


@pytest.mark.parametrize("steps", [1, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("mu", slow_but([1.0], [0.5, 1.0, 5.0]))
def test_tiny_delta_is_never_understated(steps: int, mu: float) -> None:
    """Rounding lets numerical composition fall short by up to a tenth, the more steps the sooner."""
    history = (Phase(math.sqrt(steps) / mu, 1.0, steps),)
    for delta in (1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-15):
        spent = accounted(history, delta)
        assert spent.epsilon >= gaussian_epsilon(history, delta)
        assert spent.accountant == "RDP" or delta >= 1e-12
    assert accounted(history, 1e-11).accountant == ("PRV" if steps <= 1000 else "RDP")


def test_a_failed_composition_leaves_renyi_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []

    def fail(_: PRVAccountant, eps_error: float, delta_error: float) -> None:
        errors.append(delta_error)
        raise RuntimeError("Discrete mean differs significantly from continuous mean")

    monkeypatch.setattr(PRVAccountant, "_get_dprv", fail)
    history = (Phase(1700.0, 1.0, 1_000_000),)
    spent = accounted(history, 1e-5)
    assert (spent.accountant, spent.epsilon) == ("RDP", spent.epsilon_rdp)
    epsilon, delta = np.array(privacy_curve(history)).T
    assert (delta >= gaussian_delta(history, epsilon)).all() and delta[-1] == pytest.approx(1e-9)
    # What numerical composition adds to δ is a thousandth of it, but no less than a million steps' rounding.
    assert errors == [1e-8, pytest.approx(1e6 * accounting.ROUNDING_PER_STEP)]


def test_calibrates_by_renyi_accounting_at_tiny_delta() -> None:
    spent = accounted((Phase(calibrate(1.0, 1e-13, 0.05, 200), 0.05, 200),), 1e-13)
    assert spent.accountant == "RDP" and 0.99 <= spent.epsilon <= 1


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-13), (1e-4, 1e-5)])
def test_refuses_an_epsilon_that_no_noise_reaches(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon={epsilon}: expected above .* at delta={delta}"):
        calibrate(epsilon, delta, 0.05, 20)


@pytest.mark.parametrize(
    ("epsilon", "delta", "message"),
    [
        (0.0, 1e-5, "epsilon=0.0: expected a number > 0; "),
        (math.nan, 1e-5, "epsilon=nan: expected"),
        (1.0, 1.0, "delta=1.0: expected a number > 0 and < 1; "),
    ],
)
def test_refusals(epsilon: float, delta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(epsilon, delta, 0.1, 10)
