"""How well scores tell members from non-members, of one model; fleets are measured in `bootstrap`.

Every metric gives an interval on request, too. `interval="band"` counts that the threshold comes from the very scores
that are measured. `interval="clopper_pearson"` is narrower and honest only at a `threshold` that comes from other data,
such as `evaluation.thresholds` gives; records with score ≥ threshold are called members. Both take records as
independent, given the model.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from jaxtyping import Bool, Float

from palisade.evaluation.statistics.intervals import (
    Called,
    Estimate,
    RocBand,
    advantage_band,
    auc_interval,
    roc_band,
    tpr_band,
)
from palisade.evaluation.statistics.roc import Ranking, Roc, check_rate, precision

__all__ = [
    "Estimate", "Ranking", "Roc", "RocBand", "advantage", "balanced_accuracy", "ppv", "roc_auc", "roc_points",
    "tnr_at_fnr", "tpr_at_fpr",
]  # fmt: skip

Scores = Float[np.ndarray, "records"]
Members = Bool[np.ndarray, "records"]
Interval = Literal["band", "clopper_pearson"]


@overload
def roc_points(scores: Scores, members: Members) -> Roc: ...


@overload
def roc_points(scores: Scores, members: Members, *, interval: Literal["band"], alpha: float = 0.05) -> RocBand: ...


def roc_points(
    scores: Scores, members: Members, *, interval: Literal["band"] | None = None, alpha: float = 0.05
) -> Roc | RocBand:
    """All points of the ROC of one model, or a band that holds all of the true one at confidence 1 − alpha.

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
    check_interval(interval, None, alpha)
    roc = Ranking(scores, members).roc()
    return roc if interval is None else roc_band(roc, alpha)


@overload
def roc_auc(scores: Scores, members: Members) -> float: ...


@overload
def roc_auc(scores: Scores, members: Members, *, interval: Literal["band"], alpha: float = 0.05) -> Estimate: ...


def roc_auc(
    scores: Scores, members: Members, *, interval: Literal["band"] | None = None, alpha: float = 0.05
) -> float | Estimate:
    """Area under the ROC of one model: how often a random member outscores a random non-member; 0.5 is guessing.

    Raises:
        ValueError: as `roc_points`.
    """
    check_interval(interval, None, alpha)
    value = float(roc_points(scores, members).auc())
    return value if interval is None else Estimate(value, *auc_interval(scores[members], scores[~members], alpha))


@overload
def tpr_at_fpr(scores: Scores, members: Members, fpr: float) -> float: ...


@overload
def tpr_at_fpr(
    scores: Scores, members: Members, fpr: float, *,
    interval: Interval, threshold: float | None = None, alpha: float = 0.05,
) -> Estimate: ...  # fmt: skip


def tpr_at_fpr(
    scores: Scores, members: Members, fpr: float, *,
    interval: Interval | None = None, threshold: float | None = None, alpha: float = 0.05,
) -> float | Estimate:  # fmt: skip
    """The share of members found while at most `fpr` of non-members are accused, of one model.

    An average over all records hides the few that are exposed; at a low FPR they are what is left (Carlini et al. 2022,
    section 3).

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        fpr: in [0, 1]; below 1/nonmembers the data cannot resolve it and the value is NaN.
        interval: "band", or "clopper_pearson" at a `threshold` from other data, which then vouch for the FPR.
        threshold: records with score ≥ threshold are called members.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `roc_points`, for an `fpr` outside [0, 1], or if `interval` and `threshold` do not fit.

    Example:
        Two of three members stand above all but one of four non-members.

        >>> scores = np.array([9.0, 7.0, 2.0, 8.0, 3.0, 1.0, 0.0])
        >>> members = np.array([True, True, True, False, False, False, False])
        >>> round(tpr_at_fpr(scores, members, fpr=0.25), 3)
        0.667
        >>> tpr_at_fpr(scores, members, fpr=0.01)  # takes 100 non-members
        nan
    """
    roc = roc_points(scores, members)
    value = float(roc.tpr_at(fpr))
    check_interval(interval, threshold, alpha)
    if threshold is not None:
        called = Called.at(scores, members, threshold)
        return Estimate(called.tpr, *called.tpr_interval(alpha))
    return value if interval is None else Estimate(value, *tpr_band(roc, fpr, alpha))


@overload
def tnr_at_fnr(scores: Scores, members: Members, fnr: float) -> float: ...


@overload
def tnr_at_fnr(
    scores: Scores, members: Members, fnr: float, *,
    interval: Interval, threshold: float | None = None, alpha: float = 0.05,
) -> Estimate: ...  # fmt: skip


def tnr_at_fnr(
    scores: Scores, members: Members, fnr: float, *,
    interval: Interval | None = None, threshold: float | None = None, alpha: float = 0.05,
) -> float | Estimate:  # fmt: skip
    """The share of non-members cleared while at most `fnr` of members are: `tpr_at_fpr` of the opposite question.

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        fnr: in [0, 1]; below 1/members the value is NaN.
        interval: as for `tpr_at_fpr`.
        threshold: records with score ≤ threshold are called non-members.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `tpr_at_fpr`.
    """
    check_rate("fnr", fnr)
    check_interval(interval, threshold, alpha)
    if interval is None:
        return float(roc_points(scores, members).tnr_at(fnr))
    mirrored = None if threshold is None else -threshold
    return tpr_at_fpr(-scores, ~members, fnr, interval=interval, threshold=mirrored, alpha=alpha)


@overload
def advantage(scores: Scores, members: Members, *, threshold: float | None = None) -> float: ...


@overload
def advantage(
    scores: Scores, members: Members, *, interval: Interval, threshold: float | None = None, alpha: float = 0.05
) -> Estimate: ...


def advantage(
    scores: Scores, members: Members, *,
    interval: Interval | None = None, threshold: float | None = None, alpha: float = 0.05,
) -> float | Estimate:  # fmt: skip
    """TPR − FPR of one model at `threshold`, or at the best one in hindsight, which flatters the attack a little.

    Raises:
        ValueError: as `roc_points`, or if `interval` and `threshold` do not fit.
    """
    roc = roc_points(scores, members)
    if interval is not None:
        check_interval(interval, threshold, alpha)
    if threshold is not None:
        estimate = Called.at(scores, members, threshold).advantage(alpha)
    else:
        estimate = Estimate(float(roc.advantage()), *advantage_band(roc, alpha))
    return estimate.value if interval is None else estimate


@overload
def balanced_accuracy(scores: Scores, members: Members, *, threshold: float | None = None) -> float: ...


@overload
def balanced_accuracy(
    scores: Scores, members: Members, *, interval: Interval, threshold: float | None = None, alpha: float = 0.05
) -> Estimate: ...


def balanced_accuracy(
    scores: Scores, members: Members, *,
    interval: Interval | None = None, threshold: float | None = None, alpha: float = 0.05,
) -> float | Estimate:  # fmt: skip
    """½ + advantage/2 of one model: the accuracy where half of the records are members.

    Raises:
        ValueError: as `advantage`.
    """
    if interval is None:
        return 0.5 + advantage(scores, members, threshold=threshold) / 2
    found = advantage(scores, members, interval=interval, threshold=threshold, alpha=alpha)
    return Estimate(*(0.5 + value / 2 for value in found))


@overload
def ppv(
    scores: Scores, members: Members, prior: float, *, fpr: float = 0.01, threshold: float | None = None
) -> float: ...


@overload
def ppv(
    scores: Scores, members: Members, prior: float, *,
    interval: Interval, fpr: float = 0.01, threshold: float | None = None, alpha: float = 0.05,
) -> Estimate: ...  # fmt: skip


def ppv(
    scores: Scores, members: Members, prior: float, *,
    interval: Interval | None = None, fpr: float = 0.01, threshold: float | None = None, alpha: float = 0.05,
) -> float | Estimate:  # fmt: skip
    """Precision of one model's accusations where a share `prior` of all records are members.

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        prior: between 0 and 1, both excluded; an attacker who suspects many more people than were trained on has a low
            one, and needs a lower FPR still.
        interval: "band", or "clopper_pearson" at a `threshold`.
        fpr: share of non-members accused, counted in full; at a `threshold` it is measured instead.
        threshold: from other data; records with score ≥ threshold are called members.
        alpha: one minus the confidence level.

    Raises:
        ValueError: as `advantage`, or if `prior` or `fpr` is out of range.
    """
    roc = roc_points(scores, members)
    if interval is not None:
        check_interval(interval, threshold, alpha)
    if threshold is not None:
        estimate = Called.at(scores, members, threshold).ppv(prior, alpha)
    elif roc.tpr_at(fpr) == 0:
        estimate = Estimate(np.nan, np.nan, np.nan)  # nobody is called
    else:
        # Precision rises with the TPR, so the ends of the one are those of the other.
        tprs = roc.tpr_at(fpr), *tpr_band(roc, fpr, alpha)
        estimate = Estimate(*(float(precision(tpr, fpr, prior)) for tpr in tprs))
    return estimate.value if interval is None else estimate


def check_interval(interval: Interval | None, threshold: float | None, alpha: float) -> None:
    """Raises ValueError unless the kind of interval, the threshold and alpha fit."""
    if (interval == "clopper_pearson") != (threshold is not None):
        rule = "clopper_pearson needs a threshold from other data, any other choice takes none"
        raise ValueError(f"interval={interval} with threshold={threshold}; {rule}, use interval=band without one")
    if interval not in (None, "band", "clopper_pearson"):
        raise ValueError(f"interval={interval} is unknown; choose band or clopper_pearson")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is no error rate; choose a value between 0 and 1, such as 0.05")
