"""How well scores tell members from non-members: the ROC of one model and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import beta, binom


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Roc:
    """The points (FPR, TPR) that the rule "member if score ≥ threshold" reaches, from (0, 0) to (1, 1).

    Ties move together and nothing is interpolated: an attacker cannot split records of equal score.

    Args:
        fpr: share of non-members that are called members, rising.
        tpr: share of members that are.
        thresholds: falling, from infinity.
        nonmembers: how many there are; they limit the FPRs that can be resolved.
    """

    fpr: Float[np.ndarray, "points"]
    tpr: Float[np.ndarray, "points"]
    thresholds: Float[np.ndarray, "points"]
    nonmembers: int

    def auc(self) -> float:
        """Area under the curve: how often a random member scores above a random non-member, ties half."""
        return float(np.trapezoid(self.tpr, self.fpr))

    def tpr_at(self, fpr: float) -> float:
        """The largest TPR whose FPR is at most `fpr`; NaN below 1/nonmembers, which the data cannot resolve."""
        if not 0 <= fpr <= 1:
            raise ValueError(f"fpr={fpr} is no rate; choose a value between 0 and 1")
        if fpr < 1 / self.nonmembers:
            return float("nan")
        return float(self.tpr[np.searchsorted(self.fpr, fpr, side="right") - 1])

    def advantage(self) -> float:
        """max(TPR − FPR), at the best threshold in hindsight."""
        return float(np.max(self.tpr - self.fpr))

    def balanced_accuracy(self) -> float:
        """½ + advantage/2."""
        return 0.5 + self.advantage() / 2

    def ppv(self, prior: float, fpr: float) -> float:
        """Share of true members among those called members, where `prior` of all records are and FPR is `fpr`."""
        if not 0 < prior < 1:
            raise ValueError(f"prior={prior} is no share of members; choose a value between 0 and 1, both excluded")
        found = prior * self.tpr_at(fpr)
        return found / (found + (1 - prior) * fpr)


class Ranking:
    """Scores sorted once; the ROC for any weights of the records then costs two cumulative sums.

    Args:
        scores: higher = more likely a member; NaN is left out, for the caller to count or refuse.
        members: which records the model was trained on.
    """

    def __init__(self, scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]):
        scored = np.flatnonzero(~np.isnan(scores))
        self.order: Int[np.ndarray, "scored"] = scored[np.argsort(-scores[scored])]
        self.members = members[self.order]
        self.nonmembers = int((~self.members).sum())
        falling = scores[self.order]
        # How many records each point calls members: none, then one more tie at a time.
        last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)[: len(falling)])
        self.called = np.append(0, last + 1)
        self.thresholds = np.append(np.inf, falling[last])

    @property
    def complete(self) -> bool:
        """Whether there are members and non-members."""
        return 0 < self.nonmembers < len(self.members)

    def roc(self, weights: Float[np.ndarray, "records"] | None = None) -> Roc:
        """The ROC in which a record counts `weights` times; NaN if members or non-members count nothing."""
        counts = np.ones(len(self.order)) if weights is None else weights[self.order]
        false, true = self._sum(counts), self._sum(counts * self.members)
        false -= true  # in place: fresh memory would take longer than the arithmetic
        totals = true[-1], false[-1]
        members, nonmembers = totals if min(totals) > 0 else (np.nan, np.nan)
        true /= members
        false /= nonmembers
        return Roc(false, true, self.thresholds, self.nonmembers)

    def _sum(self, counts: Float[np.ndarray, "scored"]) -> Float[np.ndarray, "points"]:
        """Cumulative sums at the points."""
        sums = np.zeros(len(counts) + 1)
        np.cumsum(counts, out=sums[1:])
        return sums if len(self.called) == len(sums) else sums[self.called]


def roc_points(scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]) -> Roc:
    """All points of the ROC of one model.

    Raises:
        ValueError: if scores and members differ in shape, a score is NaN, or there is no member or no non-member.
    """
    if scores.ndim != 1 or scores.shape != members.shape or members.dtype != np.bool_:
        held = f"{members.dtype} of shape {members.shape}"
        raise ValueError(f"members={held}; scores.shape={scores.shape} needs one Boolean a score, for one model")
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(f"scores hold {missing} NaN; leave records without a score out, and say how many")
    if not 0 < members.sum() < len(members):
        raise ValueError(f"members={members.sum()} of n={len(members)}; a ROC needs members and non-members")
    return Ranking(scores, members).roc()


def roc_auc(scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]) -> float:
    """Area under the ROC of one model; 0.5 is guessing."""
    return roc_points(scores, members).auc()


@overload
def tpr_at_fpr(scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], fpr: float) -> float: ...


@overload
def tpr_at_fpr(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    fpr: float,
    *,
    interval: Literal["band", "clopper_pearson"],
    threshold: float | None = None,
    alpha: float = 0.05,
) -> Estimate: ...


def tpr_at_fpr(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    fpr: float,
    *,
    interval: Literal["band", "clopper_pearson"] | None = None,
    threshold: float | None = None,
    alpha: float = 0.05,
) -> float | Estimate:
    """The share of members found while at most `fpr` of non-members are accused, of one model.

    An average over all records hides the few that are exposed; at a low FPR they are what is left (Carlini et al. 2022,
    section 3).

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        fpr: in [0, 1]; below 1/nonmembers the data cannot resolve it and the value is NaN.
        interval: "band" also counts that the threshold is uncertain, being taken from these non-members: its interval
            from order statistics, and Clopper–Pearson at both ends, each at alpha/2. "clopper_pearson" alone is
            honest only at a `threshold` that comes from other data, which then vouch for the FPR.
        threshold: records with score ≥ threshold are called members.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `roc_points`, for an `fpr` outside [0, 1], or if `interval` and `threshold` do not fit.
    """
    roc = roc_points(scores, members)
    value = roc.tpr_at(fpr)
    if (interval == "clopper_pearson") != (threshold is not None):
        rule = "clopper_pearson needs a threshold from other data, any other choice takes none"
        raise ValueError(f"interval={interval} with threshold={threshold}; {rule}, use interval=band without one")
    if interval is None:
        return value
    if threshold is not None:
        found = int((scores[members] >= threshold).sum())
        return Estimate(found / int(members.sum()), *clopper_pearson_interval(found, int(members.sum()), alpha))
    return Estimate(value, *_band(scores[members], scores[~members], fpr, alpha))


def advantage(
    scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], *, threshold: float | None = None
) -> float:
    """TPR − FPR of one model at `threshold`, or at the best one in hindsight, which flatters the attack a little."""
    roc = roc_points(scores, members)
    if threshold is None:
        return roc.advantage()
    called = scores >= threshold
    return float(called[members].mean() - called[~members].mean())


def balanced_accuracy(
    scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], *, threshold: float | None = None
) -> float:
    """½ + advantage/2 of one model: the accuracy where half of the records are members."""
    return 0.5 + advantage(scores, members, threshold=threshold) / 2


def ppv(
    scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], prior: float, *, fpr: float = 0.01
) -> float:
    """Precision of one model's accusations at `fpr`, where a share `prior` of all records are members."""
    return roc_points(scores, members).ppv(prior, fpr)


def clopper_pearson_interval(successes: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """The exact interval of a binomial share at confidence 1 − alpha (Clopper & Pearson 1934)."""
    low = beta.ppf(alpha / 2, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - alpha / 2, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def _band(
    members: Float[np.ndarray, "members"], nonmembers: Float[np.ndarray, "nonmembers"], fpr: float, alpha: float
) -> tuple[float, float]:
    """An interval of the TPR at the unknown threshold that a share `fpr` of all non-members exceeds."""
    n, falling = len(nonmembers), -np.sort(-nonmembers)
    if fpr < 1 / n:
        return float("nan"), float("nan")
    least, most = (int(binom.ppf(level, n, fpr)) for level in (alpha / 4, 1 - alpha / 4))
    # With probability 1 − alpha/2 between `least` and `most` of the n lie above that threshold.
    strict = int((members > falling[least - 1]).sum()) if least > 0 else 0
    loose = int((members >= falling[most]).sum()) if most < n else len(members)
    low, _ = clopper_pearson_interval(strict, len(members), alpha / 2)
    _, high = clopper_pearson_interval(loose, len(members), alpha / 2)
    return low, high
