"""The ROC of one model: which rates of true and false accusations its scores allow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

Metric = np.ndarray | np.floating[Any]
"""A number; of several ROCs an array of as many."""
RATE_ROUNDING = 1e-12
"""Relative; far above rounding and far below one record, so that `k/n ≤ rate` holds where it does on paper."""


@dataclass(frozen=True, eq=False)
class Roc:
    """The points that the rule "member if score ≥ threshold" reaches, from nobody accused to everybody.

    Ties move together and nothing is interpolated: an attacker cannot split records of equal score. Where records were
    weighed in several ways, an axis for these comes first, here and in whatever is measured.

    Args:
        false: how many non-members are called members, rising; counted by weight.
        true: how many members are.
        thresholds: falling, from infinity.
        members: how many there are, whatever their weight; they limit the FNRs that can be resolved.
        nonmembers: likewise for FPRs.
    """

    false: Float[np.ndarray, "*weighings points"]
    true: Float[np.ndarray, "*weighings points"]
    thresholds: Float[np.ndarray, "points"]
    members: int
    nonmembers: int

    @cached_property
    def fpr(self) -> Float[np.ndarray, "*weighings points"]:
        """The share of non-members that are called members; NaN if they weigh nothing."""
        return self.false / self._totals[0][..., None]

    @cached_property
    def tpr(self) -> Float[np.ndarray, "*weighings points"]:
        """The share of members that are called members; NaN if they weigh nothing."""
        return self.true / self._totals[1][..., None]

    def auc(self) -> Metric:
        """Area under the curve: how often a random member scores above a random non-member, ties half."""
        # Sum of Δfalse · mean true, twice and telescoped: two products of whole numbers, exact and without copies.
        twice = np.einsum("...p,...p->...", self.false[..., 1:], self.true[..., :-1])
        twice = twice - np.einsum("...p,...p->...", self.false[..., :-1], self.true[..., 1:])
        false, true = self._totals
        return 0.5 + twice / (2 * false * true)

    def tpr_at(self, fpr: float) -> Metric:
        """The largest TPR whose FPR is at most `fpr`; NaN below 1/nonmembers, which the data cannot resolve."""
        check_rate("fpr", fpr)
        false, true = self._totals
        if fpr < 1 / self.nonmembers:
            return np.full_like(true, np.nan)
        within = (self.false <= (fpr * false * (1 + RATE_ROUNDING))[..., None]).sum(axis=-1)
        return np.where(np.isnan(false * true), np.nan, _at(self.true, within - 1) / true)

    def tnr_at(self, fnr: float) -> Metric:
        """The largest TNR whose FNR is at most `fnr`: who is cleared while few members are; NaN below 1/members."""
        check_rate("fnr", fnr)
        false, true = self._totals
        if fnr < 1 / self.members:
            return np.full_like(true, np.nan)
        short = (self.true < ((1 - fnr) * true * (1 - RATE_ROUNDING))[..., None]).sum(axis=-1)
        return np.where(np.isnan(false * true), np.nan, (false - _at(self.false, short)) / false)

    def advantage(self) -> Metric:
        """max(TPR − FPR), at the best threshold in hindsight."""
        return self._advantage

    def balanced_accuracy(self) -> Metric:
        """½ + advantage/2."""
        return 0.5 + self._advantage / 2

    def ppv(self, prior: float, fpr: float) -> Metric:
        """Share of true members among those called members, where `prior` of all records are and FPR is `fpr`.

        The FPR counts in full even if ties keep the attack below it; NaN if they keep it from calling anybody.
        """
        tpr = self.tpr_at(fpr)
        return np.where(np.asarray(tpr) > 0, precision(tpr, fpr, prior), np.nan)

    @cached_property
    def _totals(self) -> tuple[Float[np.ndarray, "*weighings"], Float[np.ndarray, "*weighings"]]:
        """Weight of non-members and of members, NaN for none: a resample may miss them."""
        false, true = (np.where(side[..., -1] == 0, np.nan, side[..., -1]) for side in (self.false, self.true))
        return false, true

    @cached_property
    def _advantage(self) -> Metric:
        false, true = self._totals
        beyond = np.max(self.true * false[..., None] - self.false * true[..., None], axis=-1)
        return np.asarray(beyond / (false * true))


def _at(counts: Float[np.ndarray, "*weighings points"], points: np.ndarray | np.integer[Any]) -> Metric:
    """The count of each weighing at its own point."""
    return np.take_along_axis(counts, np.asarray(points)[..., None], axis=-1)[..., 0]


class Ranking:
    """Scores sorted once; the ROC for any weights of the records then costs two cumulative sums.

    Args:
        scores: higher = more likely a member; NaN is left out, for the caller to count or refuse.
        members: which records the model was trained on.
    """

    def __init__(self, scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]) -> None:
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
        """Presence of both members and non-members."""
        return 0 < self.nonmembers < len(self.members)

    def roc(
        self,
        weights: Float[np.ndarray, "*weighings records"] | None = None,
        workspace: Float[np.ndarray, "2 *weighings records_and_one"] | None = None,
    ) -> Roc:
        """The ROC in which a record counts `weights` times.

        Args:
            weights: of all records, also of those without a score; default: each counts once.
            workspace: memory that the ROC may live in until the next call; fresh memory takes longer than the sums.
        """
        size = len(self.order) + 1
        ways = () if weights is None else weights.shape[:-1]
        called, true = np.empty((2, *ways, size)) if workspace is None else workspace[..., :size]
        called[..., 0] = true[..., 0] = 0.0
        if weights is None:
            called[..., 1:] = 1.0
        else:  # "raise" would copy; the order is in range
            np.take(weights, self.order, axis=-1, out=called[..., 1:], mode="clip")
        np.multiply(called[..., 1:], self.members, out=true[..., 1:])
        np.cumsum(called, axis=-1, out=called)
        np.cumsum(true, axis=-1, out=true)
        if len(self.called) < size:
            called, true = called[..., self.called], true[..., self.called]
        false = np.subtract(called, true, out=called)
        return Roc(false, true, self.thresholds, len(self.members) - self.nonmembers, self.nonmembers)


def precision(tpr: Metric | float, fpr: float, prior: float) -> Metric:
    """Share of true members among those called members, where `prior` of all records are; NaN if nobody is called.

    Raises:
        ValueError: if the prior is no share.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior}: expected a share of members > 0 and < 1; choose e.g. 0.5")
    true, false = prior * np.asarray(tpr, dtype=np.float64), (1 - prior) * fpr
    return true / np.where(true + false == 0, np.nan, true + false)


def check_rate(name: str, rate: float) -> None:
    """Raises ValueError unless the rate lies in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}={rate}: expected a rate >= 0 and <= 1; choose e.g. 0.01")
