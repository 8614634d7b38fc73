"""Lower bounds on ε that an attack proves, and bounds on attacks that a claimed (ε, δ) implies.

Each bound holds with probability 1 − alpha (or 1 − p) for the add/remove relation, δ being that of the claim. A low one
proves nothing: a stronger attack may find more. What a perfect attack would prove with the same counts is the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import bdtrc, expit, gammaln, log_expit, log_ndtr, ndtr, ndtri

from palisade.evaluation.statistics.metrics import upper_limit

LARGEST_EXPONENT = 700.0  # e^ε overflows above; the bound is far above 1 there already
MIN_SURPRISE = math.exp(-LARGEST_EXPONENT)
EPSILON_PRECISION = 1e-6  # of a bound on ε
MOST_CANARIES = 1_000_000
"""Most canaries that `canaries_needed` names."""
MAX_CANARIES_FACTOR = 4
"""With so many times the canaries that are needed without δ, what δ adds is all that is left, and more do not help."""


def clopper_pearson(tp: int, members: int, fp: int, nonmembers: int, delta: float = 0.0, alpha: float = 0.05) -> float:
    """The least ε that both error rates of an attack at one threshold allow for.

    (ε, δ) bounds the attack in both directions (Kairouz et al. 2015, theorem 2.1); the two error rates are bounded by
    Clopper & Pearson (1934), each at alpha/2 (Jagielski et al. 2020, section 4). Valid for independent trials at a
    threshold from other data: one record fixed beforehand, over retrained models. The records of one model share it,
    and the bound is then indicative only; the largest over several thresholds is not even that.

    Args:
        tp: members called members.
        members: how many there are.
        fp: non-members called members.
        nonmembers: how many there are.
        delta: of the claim, in [0, 1).
        alpha: one minus the confidence level.

    Raises:
        ValueError: if a count, `delta` or `alpha` is out of range.
    """
    return float(epsilon_of_rates(*_error_rates(tp, members, fp, nonmembers, delta, alpha), delta))


def gdp(tp: int, members: int, fp: int, nonmembers: int, delta: float, alpha: float = 0.05) -> float:
    """The ε at δ of the least Gaussian mechanism that allows for the attack's error rates.

    One threshold then bounds the whole trade-off curve: μ ≥ Φ⁻¹(1 − FPR) − Φ⁻¹(FNR) (Nasr et al. 2023, section 5),
    which no attack below chance makes positive. Assumes a Gaussian-shaped mechanism, and what `clopper_pearson` does.

    Args:
        tp: members called members.
        members: how many there are.
        fp: non-members called members.
        nonmembers: how many there are.
        delta: of the claim; a Gaussian mechanism has no finite ε at 0, where any leak gives infinity.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `clopper_pearson`.
    """
    fnr, fpr = _error_rates(tp, members, fp, nonmembers, delta, alpha)
    return gaussian_epsilon(max(float(-ndtri(fpr) - ndtri(fnr)), 0.0), delta)


def one_run(canaries: int, guesses: int, correct: int, delta: float, p: float = 0.05) -> float:
    """The largest ε at which so many right guesses about one model would be a surprise.

    Valid for a single training run, if each canary was included with probability ½ independently, and how many are
    guessed was fixed beforehand (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    Args:
        canaries: records whose inclusion was drawn.
        guesses: how many of them are guessed to be in or out.
        correct: how many guesses are right.
        delta: of the claim, in [0, 1); it costs 2·canaries·delta/guesses and more.
        p: probability of exceeding the true ε.

    Raises:
        ValueError: if counts are not correct ≤ guesses ≤ canaries, or `delta` or `p` is out of range.

    Example:
        >>> round(one_run(canaries=1000, guesses=100, correct=90, delta=1e-5), 2)
        1.63
        >>> one_run(canaries=1000, guesses=100, correct=50, delta=1e-5)  # as many as by tossing coins
        0.0
    """
    _check_guesses(canaries, guesses, correct, delta, p)
    if correct == 0:
        return 0.0
    return _largest(lambda epsilon: _chance(canaries, guesses, correct, delta, epsilon) <= p)


def canaries_needed(epsilon: float, share: float, delta: float, p: float = 0.05) -> int | None:
    """The least number of canaries with which `one_run` exceeds ε if all guesses are right.

    Without δ it takes q^r ≤ p for r guesses, q = e^ε/(1 + e^ε) being the chance of a right one. What δ adds to that
    grows as fast as the number of canaries does: where δ is too large, no number suffices.

    Args:
        epsilon: that is to be refuted, above 0.
        share: of the canaries, guessed at either end, in (0, 0.5].
        delta: of the claim, in [0, 1).
        p: probability of exceeding the true ε.

    Returns:
        None if no number suffices, or none up to a million.

    Example:
        >>> canaries_needed(epsilon=4, share=0.1, delta=0), canaries_needed(epsilon=8, share=0.1, delta=1e-4)
        (830, None)
    """
    surprise = max(-float(log_expit(epsilon)), MIN_SURPRISE)  # of a right guess
    least = math.ceil(-0.5 * math.log(p) / surprise)  # guesses at either end, if δ were 0
    most = min(MAX_CANARIES_FACTOR * least, math.floor(share * MOST_CANARIES))

    def suffices(each: int) -> bool:
        return _chance(math.ceil(each / share), 2 * each, 2 * each, delta, epsilon) <= p

    too_few, each = least - 1, least
    while each <= most and not suffices(each):
        too_few, each = each, each + max(1, each // 20)
    if each > most:
        return None
    while each - too_few > 1:
        middle = (too_few + each) // 2
        too_few, each = (too_few, middle) if suffices(middle) else (middle, each)
    return math.ceil(each / share)


def _chance(canaries: int, guesses: int, correct: int, delta: float, epsilon: float) -> float:
    """Largest probability of so many right guesses, if (ε, δ) is true (Steinke, Nasr & Jagielski 2023, theorem 5.2)."""
    chance = float(bdtrc(correct - 1, guesses, expit(epsilon)))
    if delta > 0:
        # δ may turn some of the less lucky outcomes into this one.
        fewer = np.arange(correct - 1.0, -1.0, -1.0)
        ways = gammaln(guesses + 1) - gammaln(fewer + 1) - gammaln(guesses - fewer + 1)
        outcomes = np.exp(ways + fewer * epsilon + guesses * log_expit(-epsilon))
        chance += 2 * canaries * delta * float(np.max(np.cumsum(outcomes) / np.arange(1, correct + 1)))
    return chance


def one_run_fdp(canaries: int, guesses: int, correct: int, delta: float, p: float = 0.05) -> float:
    """Lower bound as `one_run`, for a Gaussian mechanism: testing the whole trade-off curve proves far more.

    The recursion bounds how likely each number of right guesses is (Mahloujifar, Melis & Chaudhuri 2024, algorithm 1).
    Assumes a Gaussian-shaped mechanism, and what `one_run` does.

    Args:
        canaries: records whose inclusion was drawn.
        guesses: how many of them are guessed to be in or out.
        correct: how many guesses are right.
        delta: of the claim; at 0 any leak gives infinity, as for `gdp`.
        p: probability of exceeding the true ε.

    Raises:
        ValueError: as `one_run`.
    """
    _check_guesses(canaries, guesses, correct, delta, p)
    if correct == 0:
        return 0.0

    def surprising(mu: float) -> bool:
        right, wrong = p * correct / canaries, p * (guesses - correct) / canaries
        for count in range(correct - 1, -1, -1):
            raised = float(ndtr(ndtri(right) - mu))
            if raised <= wrong:
                break  # from here on nothing moves any more
            right = min(1.0, right + count / (guesses - count) * (raised - wrong))
            wrong = raised
            if right + wrong > guesses / canaries:
                return True
        return right + wrong > guesses / canaries

    return gaussian_epsilon(_largest(surprising), delta)


def epsilon_of_rates(
    fnr: Float[np.ndarray, "*attacks"] | float, fpr: Float[np.ndarray, "*attacks"] | float, delta: float
) -> Float[np.ndarray, "*attacks"]:
    """The least ε at δ that allows for attacks with these error rates, neither of them 0."""
    return np.asarray(np.log(np.maximum(np.maximum((1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr), 1.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε(δ) of a μ-Gaussian mechanism (Dong et al. 2022, corollary 2.13); infinite at δ = 0 unless μ = 0."""

    def excess(epsilon: float) -> float:
        return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))) - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    if delta == 0:
        return math.inf
    # Φ(μ/2 − ε/μ) alone is δ there, and δ(ε) is less.
    return float(brentq(excess, 0.0, mu * (mu / 2 - ndtri(delta)), xtol=EPSILON_PRECISION))


def _largest(surprising: Callable[[float], bool]) -> float:
    """The largest value that is still surprising, to `EPSILON_PRECISION`; 0 if 0 itself is not."""
    low, high = 0.0, 1.0
    if not surprising(low):
        return low
    while surprising(high):
        low, high = high, 2 * high
    while high - low > EPSILON_PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if surprising(middle) else (low, middle)
    return low


def _error_rates(tp: int, members: int, fp: int, nonmembers: int, delta: float, alpha: float) -> tuple[float, float]:
    """The largest FNR and FPR that the counts allow for, each at alpha/2."""
    for name, count, total_name, total in (("tp", tp, "members", members), ("fp", fp, "nonmembers", nonmembers)):
        if not 0 <= count <= total or total == 0:
            raise ValueError(
                f"{name}={count}, {total_name}={total}: expected 0 <= {name} <= {total_name} and {total_name} >= 1;"
                " count each record once"
            )
    _check_errors(delta, "alpha", alpha)
    return float(upper_limit(members - tp, members, alpha / 2)), float(upper_limit(fp, nonmembers, alpha / 2))


def _check_guesses(canaries: int, guesses: int, correct: int, delta: float, p: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        counts = f"canaries={canaries}, guesses={guesses}, correct={correct}"
        raise ValueError(f"{counts}: expected correct <= guesses <= canaries, all >= 0; guess each canary at most once")
    _check_errors(delta, "p", p)


def _check_errors(delta: float, name: str, rate: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta={delta}: expected a probability >= 0 and < 1; choose that of the claim")
    if not 0 < rate < 1:
        raise ValueError(f"{name}={rate}: expected an error rate > 0 and < 1; choose e.g. 0.05")


def tpr_ceiling(fpr: Float[np.ndarray, "rates"], curve: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "rates"]:
    """The largest TPR that any attack can have at each FPR against a mechanism with this privacy curve.

    Every point (ε, δ) holds for "member against non-member" and the reverse, hence TPR ≤ e^ε·FPR + δ and
    TPR ≤ 1 − e^−ε(1 − δ − FPR) (Kairouz et al. 2015, theorem 2.1). An attack above the ceiling disproves the claim; one
    below proves nothing.

    Args:
        fpr: in [0, 1].
        curve: rows (ε, δ(ε)) from the accountant, ε ≥ 0; more rows make the ceiling tighter.

    Raises:
        ValueError: if a rate is outside [0, 1] or the curve has no rows of ε ≥ 0 and δ in [0, 1].

    Example:
        At ε = 1 no attack with an FPR of 1 % has a TPR above 2.7 %.

        >>> tpr_ceiling(np.array([0.01]), np.array([[1.0, 0.0]])).round(3).tolist()
        [0.027]
    """
    fpr, curve = np.asarray(fpr, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if not ((fpr >= 0) & (fpr <= 1)).all():
        raise ValueError(f"fpr={fpr.min()}..{fpr.max()}: expected rates >= 0 and <= 1; choose e.g. 0.01")
    if curve.ndim != 2 or curve.shape[1] != 2 or len(curve) == 0:
        raise ValueError(f"curve.shape={curve.shape}: expected rows (ε, δ), at least one; pass those of the accountant")
    epsilon, delta = curve.T
    if not ((epsilon >= 0) & (delta >= 0) & (delta <= 1)).all():
        raise ValueError("curve: expected rows with ε >= 0 and δ in [0, 1]; pass the accountant's ε and δ(ε)")
    rate, growth = fpr[..., None], np.exp(np.minimum(epsilon, LARGEST_EXPONENT))
    forward = growth * rate + delta
    backward = 1 - (1 - delta - rate) / growth
    return np.clip(np.minimum(forward, backward).min(axis=-1), fpr, 1.0)
