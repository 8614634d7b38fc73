"""The ROC of one model: which rates of true and false accusations its scores allow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

ROUNDING = 1e-12
"""Relative; far above rounding and far below one record, so that `k/n ≤ rate` holds where it does on paper."""


@dataclass(frozen=True, eq=False)
class Roc:
    """The points that the rule "member if score ≥ threshold" reaches, from nobody accused to everybody.

    Ties move together and nothing is interpolated: an attacker cannot split records of equal score.

    Args:
        false: how many non-members are called members, rising; counted by weight.
        true: how many members are.
        thresholds: falling, from infinity.
        members: how many there are, whatever their weight; they limit the FNRs that can be resolved.
        nonmembers: likewise for FPRs.
    """

    false: Float[np.ndarray, "points"]
    true: Float[np.ndarray, "points"]
    thresholds: Float[np.ndarray, "points"]
    members: int
    nonmembers: int

    @cached_property
    def fpr(self) -> Float[np.ndarray, "points"]:
        """The share of non-members that are called members; NaN if they weigh nothing."""
        return self.false / self._totals[0]

    @cached_property
    def tpr(self) -> Float[np.ndarray, "points"]:
        """The share of members that are called members; NaN if they weigh nothing."""
        return self.true / self._totals[1]

    def auc(self) -> float:
        """Area under the curve: how often a random member scores above a random non-member, ties half."""
        # Sum of Δfalse · mean true, twice and telescoped: two products of whole numbers, exact and without copies.
        twice = self.false[1:] @ self.true[:-1] - self.false[:-1] @ self.true[1:]
        false, true = self._totals
        return float(0.5 + twice / (2 * false * true))

    def tpr_at(self, fpr: float) -> float:
        """The largest TPR whose FPR is at most `fpr`; NaN below 1/nonmembers, which the data cannot resolve."""
        check_rate("fpr", fpr)
        false, true = self._totals
        if fpr < 1 / self.nonmembers or np.isnan(false * true):
            return float("nan")
        return float(self.true[np.searchsorted(self.false, fpr * false * (1 + ROUNDING), side="right") - 1] / true)

    def tnr_at(self, fnr: float) -> float:
        """The largest TNR whose FNR is at most `fnr`: who is cleared while few members are; NaN below 1/members."""
        check_rate("fnr", fnr)
        false, true = self._totals
        if fnr < 1 / self.members or np.isnan(false * true):
            return float("nan")
        return float((false - self.false[np.searchsorted(self.true, (1 - fnr) * true * (1 - ROUNDING))]) / false)

    def advantage(self) -> float:
        """max(TPR − FPR), at the best threshold in hindsight."""
        return self._advantage

    def balanced_accuracy(self) -> float:
        """½ + advantage/2."""
        return 0.5 + self._advantage / 2

    def ppv(self, prior: float, fpr: float) -> float:
        """Share of true members among those called members, where `prior` of all records are and FPR is `fpr`.

        The FPR counts in full even if ties keep the attack below it; NaN if they keep it from calling anybody.
        """
        tpr = self.tpr_at(fpr)
        return precision(tpr, fpr, prior) if tpr > 0 else float("nan")

    @cached_property
    def _totals(self) -> tuple[float, float]:
        """Weight of non-members and of members, NaN for none: a resample may miss them."""
        return float(self.false[-1]) or np.nan, float(self.true[-1]) or np.nan

    @cached_property
    def _advantage(self) -> float:
        false, true = self._totals
        return float(np.max(self.true * false - self.false * true) / (false * true))


class Ranking:
    """Scores sorted once; the ROC for any weights of the records then costs two cumulative sums.

    Args:
        scores: higher = more likely a member; NaN is left out, for the caller to count or refuse.
        members: which records the model was trained on.
    """

    def __init__(self, scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]):
        scores = np.asarray(scores, dtype=np.float64)  # −score of unsigned numbers would be a large one
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

    def roc(
        self,
        weights: Float[np.ndarray, "records"] | None = None,
        workspace: Float[np.ndarray, "2 records_and_one"] | None = None,
    ) -> Roc:
        """The ROC in which a record counts `weights` times.

        Args:
            weights: of all records, also of those without a score; default: each counts once.
            workspace: memory that the ROC may live in until the next call; fresh memory takes longer than the sums.
        """
        size = len(self.order) + 1
        called, true = np.empty((2, size)) if workspace is None else workspace[:, :size]
        called[0] = true[0] = 0.0
        if weights is None:
            called[1:] = 1.0
        else:
            np.take(weights, self.order, out=called[1:], mode="clip")  # "raise" would copy; the order is in range
        np.multiply(called[1:], self.members, out=true[1:])
        np.cumsum(called, out=called)
        np.cumsum(true, out=true)
        if len(self.called) < size:
            called, true = called[self.called], true[self.called]
        false = np.subtract(called, true, out=called)
        return Roc(false, true, self.thresholds, len(self.members) - self.nonmembers, self.nonmembers)


def precision(tpr: float, fpr: float, prior: float) -> float:
    """Share of true members among those called members, where `prior` of all records are; NaN if nobody is called.

    Raises:
        ValueError: if the prior is no share.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior} is no share of members; choose a value between 0 and 1, both excluded")
    found, accused = prior * tpr, (1 - prior) * fpr
    return found / (found + accused) if found + accused != 0 else float("nan")


def check_rate(name: str, rate: float) -> None:
    """Raises ValueError unless the rate lies in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}={rate} is no rate; choose a value between 0 and 1")
