"""Metrics of scores with confidence intervals: what the scores of one model show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import betaincinv
from scipy.stats import binom, rankdata

from palisade.evaluation.statistics.roc import Ranking, Roc, check_rate, precision

BAND_POINTS = 16


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def clopper_pearson_interval(successes: float, trials: float, alpha: float = 0.05) -> tuple[float, float]:
    """The exact interval of a binomial share at confidence 1 − alpha (Clopper & Pearson 1934)."""
    low, high = 1 - upper_limit(trials - successes, trials, alpha / 2), upper_limit(successes, trials, alpha / 2)
    return float(low), float(high)


def upper_limit(successes: Float[np.ndarray, "*n"] | float, trials: float, alpha: float) -> Float[np.ndarray, "*n"]:
    """The largest share, at confidence 1 − alpha, of which so few successes in all trials are believable."""
    failures = np.asarray(trials - successes)
    return np.where(failures > 0, betaincinv(successes + 1, np.where(failures > 0, failures, 1.0), 1 - alpha), 1.0)


class Called(NamedTuple):
    """Counts of members and non-members at or above a threshold, of one model.

    Args:
        tp: members that do.
        members: how many there are.
        fp: non-members that do.
        nonmembers: how many there are.
    """

    tp: int
    members: int
    fp: int
    nonmembers: int

    @classmethod
    def at(cls, scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], threshold: float) -> Called:
        """Counts of members and non-members whose score is at least the threshold."""
        called, count = scores >= threshold, int(members.sum())
        return cls(int(called[members].sum()), count, int(called[~members].sum()), len(members) - count)

    def balanced_accuracy(self, alpha: float = 0.05) -> Estimate:
        """Mean of TPR and TNR, between the ends of both rates' Clopper–Pearson intervals, each at alpha/2.

        Honest only if the threshold comes from other data than these scores.
        """
        tpr, fpr = self.tp / self.members, self.fp / self.nonmembers
        least, most = clopper_pearson_interval(self.tp, self.members, alpha / 2)
        few, many = clopper_pearson_interval(self.fp, self.nonmembers, alpha / 2)
        return Estimate(*(0.5 + gap / 2 for gap in (tpr - fpr, least - many, most - few)))


def tpr_band(roc: Roc, fpr: float, alpha: float) -> tuple[float, float]:
    """An interval of the TPR at the unknown threshold that a share `fpr` of all non-members exceeds.

    That threshold's place among the non-members is binomial: its order-statistic interval at alpha/2, and
    Clopper–Pearson of the TPR at both ends at alpha/2. Ties go to the safe side. NaN below 1/nonmembers.
    """
    n = roc.nonmembers
    if fpr < 1 / n:
        return float("nan"), float("nan")
    least, most = (int(binom.ppf(level, n, fpr)) for level in (alpha / 4, 1 - alpha / 4))
    # With probability 1 − alpha/2 between `least` and `most` of the n lie above that threshold.
    strict = roc.true[np.searchsorted(roc.false, least) - 1] if least > 0 else 0.0
    loose = roc.true[np.searchsorted(roc.false, most + 1)] if most < n else roc.members
    low, _ = clopper_pearson_interval(strict, roc.members, alpha / 2)
    _, high = clopper_pearson_interval(loose, roc.members, alpha / 2)
    return low, high


def advantage_band(roc: Roc, alpha: float) -> tuple[float, float]:
    """An interval of max(TPR − FPR) over all thresholds, which the best one in hindsight flatters.

    No threshold deviates more than the two largest deviations of the distribution functions (Dvoretzky, Kiefer &
    Wolfowitz 1956 with the constant of Massart 1990), which bounds it from below. The truly best threshold is a fixed
    one, hence from above the difference of two means at a single threshold does (Hoeffding 1963, section 2).
    """
    value, shares = roc.advantage(), (1 / roc.members, 1 / roc.nonmembers)
    below = sum(np.sqrt(np.log(4 / alpha) / 2 * share) for share in shares)
    above = np.sqrt(np.log(2 / alpha) / 2 * sum(shares))
    return max(float(value - below), 0.0), min(float(value + above), 1.0)


def auc_interval(
    members: Float[np.ndarray, "members"], nonmembers: Float[np.ndarray, "nonmembers"], alpha: float
) -> tuple[float, float]:
    """Clopper–Pearson's interval of the AUC, for as many trials as have its variance (Korn & Graubard 1998).

    The variance is that of DeLong, DeLong & Clarke-Pearson (1988), which assumes no shape. Near perfect separation it
    rests on few errors: no more trials are believed than guessing would have (Mann & Whitney 1947), and disjoint pairs
    of a member and a non-member where it is 0.
    """
    m, n = len(members), len(nonmembers)
    ranks = rankdata(np.concatenate([members, nonmembers]))
    # How many of the other side each one beats, ties half.
    won = (ranks[:m] - rankdata(members)) / n
    lost = (ranks[m:] - rankdata(nonmembers)) / m
    value = float(won.mean())
    variance = sum(float(side.var(ddof=1)) / len(side) if len(side) > 1 else 0.25 for side in (won, lost))
    most = 3 * m * n / (m + n + 1)
    trials = min(value * (1 - value) / variance, most) if variance > 0 else min(m, n)
    return clopper_pearson_interval(value * trials, trials, alpha)


@dataclass(frozen=True, eq=False)
class RocBand:
    """Limits of the whole ROC that hold at once; between two FPRs, the `low` of the left and the `high` of the right.

    Args:
        fpr: rising, from one false accusation to 1.
        low: least TPR at that FPR.
        high: largest TPR there.
    """

    fpr: Float[np.ndarray, "points"]
    low: Float[np.ndarray, "points"]
    high: Float[np.ndarray, "points"]


def roc_band(roc: Roc, alpha: float = 0.05) -> RocBand:
    """`tpr_band` at a fixed geometric grid of FPRs, corrected for their number; a ROC never falls in between.

    A band of one width everywhere, as from Kolmogorov–Smirnov (Campbell 1994), says nothing at low FPRs.
    """
    fpr = np.geomspace(1 / roc.nonmembers, 1, BAND_POINTS)
    low, high = np.transpose([tpr_band(roc, rate, alpha / BAND_POINTS) for rate in fpr])
    return RocBand(fpr, low, high)


__all__ = [
    "Estimate", "Ranking", "Roc", "accuracy_estimate", "advantage_estimate", "auc_estimate", "ppv_estimate", "roc_auc",
    "roc_points", "tnr_estimate", "tpr_at_fpr", "tpr_estimate",
]  # fmt: skip

Scores = Float[np.ndarray, "records"]
Members = Bool[np.ndarray, "records"]


def roc_points(scores: Scores, members: Members) -> Roc:
    """All points of the ROC of one model.

    Raises:
        ValueError: if scores and members differ in shape, a score is NaN, or there is no member or no non-member.
    """
    if scores.ndim != 1 or scores.shape != members.shape or members.dtype != np.bool_:
        held = f"{members.dtype} of shape {members.shape}"
        raise ValueError(
            f"members={held}: expected a Boolean a score, scores.shape={scores.shape}; pass one model alone"
        )
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(f"scores: {missing} are NaN; leave these records out, and report how many they are")
    if not 0 < members.sum() < len(members):
        raise ValueError(
            f"members={members.sum()} of n={len(members)}: expected members and non-members; pass scores of both"
        )
    return Ranking(scores, members).roc()


def roc_auc(scores: Scores, members: Members) -> float:
    """Area under the ROC of one model: how often a random member outscores a random non-member; 0.5 is guessing.

    Raises:
        ValueError: as `roc_points`.
    """
    return float(roc_points(scores, members).auc())


def auc_estimate(scores: Scores, members: Members, *, alpha: float = 0.05) -> Estimate:
    """`roc_auc` with its interval at confidence 1 − alpha.

    Raises:
        ValueError: as `roc_points`, or if alpha is no error rate.
    """
    check_alpha(alpha)
    return Estimate(roc_auc(scores, members), *auc_interval(scores[members], scores[~members], alpha))


def tpr_at_fpr(scores: Scores, members: Members, fpr: float) -> float:
    """TPR of one model at an FPR of at most `fpr`.

    An average over all records hides the few that are exposed; at a low FPR they are what is left (Carlini et al. 2022,
    section 3).

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        fpr: in [0, 1]; below 1/nonmembers the data cannot resolve it and the value is NaN.

    Raises:
        ValueError: as `roc_points`, or for an `fpr` outside [0, 1].

    Example:
        Two of three members stand above all but one of four non-members.

        >>> scores = np.array([9.0, 7.0, 2.0, 8.0, 3.0, 1.0, 0.0])
        >>> members = np.array([True, True, True, False, False, False, False])
        >>> round(tpr_at_fpr(scores, members, fpr=0.25), 3)
        0.667
        >>> tpr_at_fpr(scores, members, fpr=0.01)  # takes 100 non-members
        nan
    """
    return float(roc_points(scores, members).tpr_at(fpr))


def tpr_estimate(scores: Scores, members: Members, fpr: float, *, alpha: float = 0.05) -> Estimate:
    """`tpr_at_fpr` with its interval at confidence 1 − alpha.

    Raises:
        ValueError: as `tpr_at_fpr`, or if alpha is no error rate.
    """
    check_alpha(alpha)
    roc = roc_points(scores, members)
    return Estimate(float(roc.tpr_at(fpr)), *tpr_band(roc, fpr, alpha))


def tnr_estimate(scores: Scores, members: Members, fnr: float, *, alpha: float = 0.05) -> Estimate:
    """The share of non-members cleared while at most `fnr` of members are: `tpr_estimate` of the opposite question.

    Raises:
        ValueError: as `tpr_estimate`.
    """
    check_rate("fnr", fnr)
    return tpr_estimate(-scores, ~members, fnr, alpha=alpha)


def advantage_estimate(scores: Scores, members: Members, *, alpha: float = 0.05) -> Estimate:
    """TPR − FPR of one model at the best threshold in hindsight, which flatters the attack a little.

    Raises:
        ValueError: as `auc_estimate`.
    """
    check_alpha(alpha)
    roc = roc_points(scores, members)
    return Estimate(float(roc.advantage()), *advantage_band(roc, alpha))


def accuracy_estimate(scores: Scores, members: Members, *, alpha: float = 0.05) -> Estimate:
    """Balanced accuracy of one model, ½ + advantage/2: the accuracy where half of the records are members.

    Raises:
        ValueError: as `auc_estimate`.
    """
    return Estimate(*(0.5 + value / 2 for value in advantage_estimate(scores, members, alpha=alpha)))


def ppv_estimate(scores: Scores, members: Members, prior: float, *, fpr: float = 0.01, alpha: float = 0.05) -> Estimate:
    """Precision of one model's accusations where a share `prior` of all records are members.

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        prior: between 0 and 1, both excluded; an attacker who suspects many more people than were trained on has a low
            one, and needs a lower FPR still.
        fpr: share of non-members above the threshold, counted in full.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `tpr_estimate`, or if `prior` is out of range.
    """
    tprs = tpr_estimate(scores, members, fpr, alpha=alpha)
    if tprs.value == 0:
        return Estimate(np.nan, np.nan, np.nan)  # nobody is called
    # Precision rises with the TPR, so the ends of the one are those of the other.
    return Estimate(*(float(precision(tpr, fpr, prior)) for tpr in tprs))


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha lies between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: expected an error rate > 0 and < 1; choose e.g. 0.05")
