"""How well scores tell members from non-members, of one model; fleets are measured in `bootstrap`.

Estimates have an interval that counts that the threshold comes from the very scores that are measured. They take
records as independent, given the model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from palisade.evaluation.statistics.intervals import Estimate, advantage_band, auc_interval, tpr_band
from palisade.evaluation.statistics.roc import Ranking, Roc, check_rate, precision

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
        raise ValueError(f"members={held}; scores.shape={scores.shape} needs one Boolean a score, for one model")
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(f"scores hold {missing} NaN; leave records without a score out, and say how many")
    if not 0 < members.sum() < len(members):
        raise ValueError(f"members={members.sum()} of n={len(members)}; a ROC needs members and non-members")
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
    """The share of members found while at most `fpr` of non-members are accused, of one model.

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
        fpr: share of non-members accused, counted in full.
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
        raise ValueError(f"alpha={alpha} is no error rate; choose a value between 0 and 1, such as 0.05")
