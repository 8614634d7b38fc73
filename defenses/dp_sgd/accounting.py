"""Accounting of Poisson-sampled Gaussian steps: the ε of a history, its privacy curve, and the σ that an ε asks for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp as renyi

# Opacus sums the same series anew for every question about the same q and σ, some milliseconds an order.
renyi._compute_log_a = lru_cache(maxsize=8192)(renyi._compute_log_a)

PRV_LIMIT = 1500.0
"""Above this Rényi ε, RDP alone: its looseness no longer matters, and the composition's domain grows with it."""
PRV_MIN_DELTA = 1e-12
"""Below this δ, RDP alone: tails that small are lost in the rounding of probabilities near 1."""
ROUNDING_PER_STEP = 4 * float(np.finfo(np.float64).eps)
"""Probability by which a tail may be off for every step composed in floats; measured for T from 1 to 10^6: 2.3 eps."""
FEW_ORDERS = ((2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 63), (1.1, 1.25, 1.5))
"""Rényi orders for the search's starting point, where a few per cent do not matter but the time does, which fractional
orders take most of."""
CLOSE_ENOUGH = 0.992
"""The search for σ ends when ε is between this share of the target and the target itself."""
NOISE_DIGITS = 6
"""Significant digits of a σ that was searched for."""
CURVE_POINTS = 200
CURVE_END = 30.0
"""Beyond this ε a ceiling e^ε·FPR says nothing at any FPR that could be measured."""
CURVE_DELTA = 1e-9


class Phase(NamedTuple):
    """Steps with the same noise at the same sampling rate.

    Args:
        noise_multiplier: σ ≥ 0; 0 proves nothing.
        sampling_rate: q, 0 to 1, of Poisson sampling; 1 is the Gaussian mechanism on all records.
        steps: T ≥ 0.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


History = tuple[Phase, ...]
"""All steps that a record may take part in, of one training or of several, in any order."""


@dataclass(frozen=True, kw_only=True)
class Accounted:
    """Upper bounds on the ε of a history, at δ.

    Args:
        epsilon: the smaller of the upper bounds at hand.
        accountant: whose bound that is, "PRV" or "RDP".
        epsilon_rdp: the bound of Rényi accounting (Mironov 2017), 8 to 124 % looser.
    """

    epsilon: float
    accountant: str
    epsilon_rdp: float


@lru_cache(maxsize=1024)
def accounted(history: History, delta: float) -> Accounted:
    """The ε of DP-SGD by numerical composition (Gopi, Lee & Wutschitz 2021), with the Rényi bound beside it.

    The ε includes the composition's own error terms, so it is an upper bound, also of trainings each of which uses what
    those before it gave (adaptive composition). The central limit (GDP) accountant is not offered: it understates (3.72
    for a true 6.71).

    Args:
        history: without steps it costs nothing, and without noise it proves nothing (ε = inf).
        delta: δ, 0 to 1.
    """
    history = _merged(history)
    if not history:
        return Accounted(epsilon=0.0, accountant="PRV", epsilon_rdp=0.0)
    rdp = rdp_epsilon(history, delta)
    prv = _prv_epsilon(history, delta, rdp)
    # The two coincide up to PRV's error term where it matters least; the smaller of two upper bounds is one.
    name, epsilon = ("PRV", prv) if prv <= rdp else ("RDP", rdp)
    return Accounted(epsilon=epsilon, accountant=name, epsilon_rdp=rdp)


@lru_cache(maxsize=64)
def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The noise multiplier σ whose ε is at most, and at least 99 % of, the target.

    Starts from the σ of the looser Rényi bound, lowers it by 10 % until the claim would break, then closes in
    between the last two. Opacus's own search takes half a minute and gigabytes at large ε.

    Args:
        epsilon: target ε > 0; inf means clipping without noise, σ = 0.
        delta: δ, 0 to 1.
        sampling_rate: q, 0 to 1.
        steps: T ≥ 1.

    Raises:
        ValueError: if ε or δ is out of range, or ε below the bound of accounting at this δ.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: expected a number > 0; choose e.g. 8, or inf for clipping only")
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: expected a number > 0 and < 1; choose a value well below 1/N")
    if math.isinf(epsilon):
        return 0.0

    def spent(noise_multiplier: float) -> float:
        return accounted((Phase(noise_multiplier, sampling_rate, steps),), delta).epsilon

    enough = _rdp_noise_multiplier(epsilon, delta, sampling_rate, steps)
    while spent(enough) > epsilon:
        if spent(2 * enough) > max(epsilon, 0.999 * spent(enough)):  # both accountants have an ε that no noise lowers
            raise ValueError(
                f"epsilon={epsilon}: expected above {spent(enough):.2g} at delta={delta}, the bound however much noise"
                " there is; choose a larger epsilon or delta"
            )
        enough *= 2
    too_little = enough * 0.9
    while spent(too_little) <= epsilon:
        enough, too_little = too_little, too_little * 0.9
    while spent(enough) < CLOSE_ENOUGH * epsilon and too_little / enough < 1 - 1e-4:
        # ε is close to a power of σ between the two; 0.997 keeps the guess on the safe side.
        low, high = math.log(spent(enough)), math.log(spent(too_little))
        share = (math.log(0.997 * epsilon) - low) / (high - low)
        guess = enough * (too_little / enough) ** min(max(share, 0.05), 0.95)
        if spent(guess) <= epsilon:
            enough = guess
        else:
            too_little = guess
    return _rounded_up(enough)


def _rounded_up(noise_multiplier: float) -> float:
    """σ with six digits: the last bits of an ε differ between processors, and the key of the noise follows from σ."""
    unit = 10.0 ** (math.floor(math.log10(noise_multiplier)) + 1 - NOISE_DIGITS)
    return float(f"{math.ceil(noise_multiplier / unit) * unit:.{NOISE_DIGITS}g}")


@lru_cache(maxsize=64)
def privacy_curve(history: History) -> tuple[tuple[float, float], ...]:
    """An upper bound on δ(ε) for ε from 0 up, which bounds every attack's TPR at every FPR.

    Returns:
        (ε, δ) pairs, (0, 0) alone without steps; none if a step has no noise, which bounds nothing.
    """
    history = _merged(history)
    if not history:
        return ((0.0, 0.0),)
    if any(phase.noise_multiplier == 0 for phase in history):
        return ()
    end = min(rdp_epsilon(history, CURVE_DELTA), CURVE_END)
    grid = np.linspace(0, end, CURVE_POINTS)
    delta = _rdp_deltas(history, grid)
    rdp = rdp_epsilon(history, 1e-6)
    error, delta_error = _prv_error(rdp), max(CURVE_DELTA / 10, _rounding(history))
    loss = _composed(history, error, delta_error) if rdp <= PRV_LIMIT else None
    if loss is not None:
        with _quiet():
            prv = np.array([loss.compute_delta_estimate(point - error) for point in grid]) + delta_error
        # A failed composition gives no number; the Rényi bound then stands alone.
        delta = np.fmin(delta, np.where(prv >= 0, prv, np.nan))
    return tuple(zip(grid.tolist(), delta.clip(0, 1).tolist(), strict=True))


def rdp_epsilon(history: History, delta: float, orders: Sequence[float] | None = None) -> float:
    """ε by Rényi accounting (Mironov 2017): fast enough to be shown during training.

    Args:
        history: without steps it costs nothing; one step without noise costs inf.
        delta: δ, 0 to 1.
        orders: Rényi orders above 1; Opacus's if None.
    """
    history = _merged(history)
    if not history:
        return 0.0
    if any(phase.noise_multiplier == 0 for phase in history):
        return math.inf
    orders = tuple(RDPAccountant.DEFAULT_ALPHAS if orders is None else orders)
    divergences = sum(
        phase.steps * _divergences(phase.noise_multiplier, phase.sampling_rate, orders) for phase in history
    )
    with _quiet():
        return float(renyi.get_privacy_spent(orders=orders, rdp=divergences, delta=delta)[0])


@lru_cache(maxsize=256)
def _divergences(noise_multiplier: float, sampling_rate: float, orders: tuple[float, ...]) -> Any:
    """Rényi divergences of one step, of all orders: a tenth of a second, while more steps are a multiple."""
    with _quiet():
        return renyi.compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders)


def _merged(history: History) -> History:
    """One phase for all steps of the same noise and rate: numerical composition takes as long as there are phases."""
    steps: dict[tuple[float, float], int] = {}
    for noise_multiplier, sampling_rate, number in history:
        steps[noise_multiplier, sampling_rate] = steps.get((noise_multiplier, sampling_rate), 0) + number
    return tuple(Phase(*kind, number) for kind, number in steps.items() if number)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence of Opacus's "optimal order is the smallest alpha" and overflow warnings: the bounds hold all the same."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _prv_error(rdp: float) -> float:
    """The error term of the PRV accountant: at most 1 % of a small ε and 0.2 % of a large one."""
    return min(0.01 * rdp, max(0.01, 0.002 * rdp))


def _rounding(history: History) -> float:
    """Rounding error of a tail of the composed privacy loss, as a probability."""
    return ROUNDING_PER_STEP * sum(phase.steps for phase in history)


def _composed(history: History, error: float, delta_error: float) -> Any:
    """The distribution of the privacy loss on a mesh, or None where it cannot be discretized."""
    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        with _quiet():
            return accountant._get_dprv(eps_error=error, delta_error=delta_error)
    except RuntimeError:  # "Discrete mean differs significantly from continuous mean"
        return None


def _prv_epsilon(history: History, delta: float, rdp: float) -> float:
    """Opacus's `PRVAccountant.get_epsilon` without its overflow where the privacy loss exceeds 709.

    Returns:
        inf where composition fails, or where δ is so small that rounding could hide it: RDP stands alone.
    """
    error, delta_error = _prv_error(rdp), max(delta / 1000, _rounding(history))
    if not rdp <= PRV_LIMIT or delta < PRV_MIN_DELTA or delta_error > delta / 10:
        return math.inf
    composed = _composed(history, error, delta_error)
    if composed is None:
        return math.inf
    loss, mass, target = composed.domain.ts, composed.pmf, delta - delta_error

    def tail(start: int) -> tuple[float, float]:
        """P[L ≥ ε] and E[e^(ε − L); L ≥ ε] at the ε of a mesh point; δ(ε) is their difference."""
        return mass[start:].sum(), mass[start:] @ np.exp(loss[start] - loss[start:])

    low, high = 0, len(loss) - 1  # δ at `low` is above the target, at `high` below
    while high - low > 1:
        middle = (low + high) // 2
        probability, weighted = tail(middle)
        low, high = (middle, high) if probability - weighted > target else (low, middle)
    probability, weighted = tail(high)
    epsilon = loss[high] + math.log(max(probability - target, 0.0) / weighted) if probability > target else loss[high]
    return max(float(epsilon) + error, 0.0)


def _rdp_noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Approximate σ by Rényi accounting; 20 where it cannot reach a small ε at all."""

    def is_too_little(noise_multiplier: float) -> bool:
        history = (Phase(noise_multiplier, sampling_rate, steps),)
        return all(rdp_epsilon(history, delta, orders=orders) > epsilon for orders in FEW_ORDERS)

    low, high = 0.01, 1000.0
    if is_too_little(high):
        return 20.0
    while high / low > 1.03:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_too_little(middle) else (low, middle)
    return high


def _rdp_deltas(history: History, epsilon: Any) -> Any:
    """δ(ε) from Rényi divergences (Canonne, Kamath & Steinke 2020, proposition 12)."""
    orders = np.array(RDPAccountant.DEFAULT_ALPHAS)
    with np.errstate(all="ignore"):
        divergence = sum(
            steps * _divergences(sigma, rate, tuple(RDPAccountant.DEFAULT_ALPHAS)) for sigma, rate, steps in history
        )
        log_delta = (orders - 1) * (divergence - epsilon[:, None]) + orders * np.log1p(-1 / orders) - np.log(orders - 1)
        return np.exp(np.minimum(np.nanmin(log_delta, axis=1), 0.0))
