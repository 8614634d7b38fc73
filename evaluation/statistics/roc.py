"""The ROC of one model: which rates of true and false accusations its scores allow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Metric = np.ndarray | np.floating[Any]
"""A number; of several ROCs an array of as many."""
RATE_ROUNDING = 1e-12
"""Relative; far above rounding and far below one record, so that `k/n ≤ rate` holds where it does on paper."""
RUN_RANKS, RUNS_AT_ONCE = 32, 64
"""Ranks that follow each other, and runs of them, that are counted together: as many as a processor's caches hold."""


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

    false: Float[np.ndarray, "*weighings points"]
    true: Float[np.ndarray, "*weighings points"]
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

    def auc(self) -> Metric:
        """Area under the curve: how often a random member scores above a random non-member, ties half."""
        false, true = self._totals
        return 0.5 + self._twice_more_won() / (2 * false * true)

    def tpr_at(self, fpr: float) -> Metric:
        """The largest TPR whose FPR is at most `fpr`; NaN below 1/nonmembers, which the data cannot resolve."""
        check_rate("fpr", fpr)
        false, true = self._totals
        if fpr < 1 / self.nonmembers:
            return np.full_like(true, np.nan)
        if fpr not in self._tprs:
            reached = self._true_within(fpr * false * (1 + RATE_ROUNDING))
            self._tprs[fpr] = np.where(np.isnan(false * true), np.nan, reached / true)
        return self._tprs[fpr]

    def tnr_at(self, fnr: float) -> Metric:
        """The largest TNR whose FNR is at most `fnr`: who is cleared while few members are; NaN below 1/members."""
        check_rate("fnr", fnr)
        false, true = self._totals
        if fnr < 1 / self.members:
            return np.full_like(true, np.nan)
        cleared = self._false_below((1 - fnr) * true * (1 - RATE_ROUNDING))
        return np.where(np.isnan(false * true), np.nan, cleared / false)

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
    def _tprs(self) -> dict[float, Metric]:
        """Values of `tpr_at`, for the measures that rest on it."""
        return {}

    @cached_property
    def _totals(self) -> tuple[Float[np.ndarray, "*weighings"], Float[np.ndarray, "*weighings"]]:
        """Weight of non-members and of members, NaN for none: a resample may miss them."""
        false, true = (np.where(side[..., -1] == 0, np.nan, side[..., -1]) for side in (self.false, self.true))
        return false, true

    @cached_property
    def _advantage(self) -> Metric:
        false, true = self._totals
        return np.asarray(self._furthest() / (false * true))

    def _twice_more_won(self) -> Metric:
        """Twice the pairs of a member and a non-member that the member wins, beyond half of them."""
        # Sum of Δfalse · mean true, twice and telescoped: two products of whole numbers, exact and without copies.
        return self.false[1:] @ self.true[:-1] - self.false[:-1] @ self.true[1:]

    def _true_within(self, most: Metric) -> Metric:
        """Members that are called while at most so many non-members are."""
        return self.true[np.searchsorted(self.false, most, side="right") - 1]

    def _false_below(self, least: Metric) -> Metric:
        """Non-members that are cleared while at least so many members are called."""
        return self.false[-1] - self.false[min(int(np.searchsorted(self.true, least)), len(self.true) - 1)]

    def _furthest(self) -> Metric:
        """The largest TPR − FPR, times the weight of members and of non-members."""
        false, true = self._totals
        return np.asarray(np.max(self.true * false - self.false * true))


@dataclass(frozen=True, eq=False)
class Reweighed(Roc):
    """ROCs of one ranking under several weighings, whose points are counted only where a measure needs them.

    Args:
        false: the last point alone, where everybody is accused.
        true: likewise.
        ranking: of the scores.
        weights: how often each record counts, in a column a weighing.
        won: pairs of a member and a non-member that the member wins, ties half; counted by weight.
    """

    ranking: Ranking
    weights: UInt8[np.ndarray, "records weighings"]
    won: Float[np.ndarray, "weighings"]

    def _twice_more_won(self) -> Metric:
        false, true = self._totals
        return np.asarray(2 * self.won - false * true)

    def _true_within(self, most: Metric) -> Metric:
        ranking = self.ranking
        return self._walk(most, ranking.order, ranking.members, ranking.ends)

    def _false_below(self, least: Metric) -> Metric:
        # From the last rank on, with the sides exchanged: members are what may be lost.
        ranking = self.ranking
        return self._walk(self._totals[1] - least, ranking.order[::-1], ~ranking.members[::-1], ranking.ends[::-1])

    def _walk(
        self, most: Metric, order: Int[np.ndarray, "ranks"], wanted: Bool[np.ndarray, "ranks"],
        ends: Bool[np.ndarray, "ranks_and_one"],
    ) -> Float[np.ndarray, "weighings"]:  # fmt: skip
        """Weight of the wanted among the first ranks, as far as at most so much of the others lies there."""
        others = np.flatnonzero(~wanted)
        last = int(1.2 * np.nan_to_num(most).max(initial=0)) + 16  # one of them more, most likely
        top = int(others[last]) + 1 if last < len(others) else len(order)
        while True:
            false, true = (np.ascontiguousarray(side.T) for side in weighed(self.weights, order[:top], wanted[:top]))
            within = (np.cumsum(false, axis=1, dtype=np.int32) <= np.asarray(most)[:, None]).sum(axis=1)
            if top == len(order) or within.max(initial=0) < top:
                break
            top = min(len(order), 2 * top)
        # Ties are passed together or not.
        passed = np.maximum.accumulate(np.where(ends[: top + 1], np.arange(top + 1), 0))[within]
        counted = np.take_along_axis(
            np.cumsum(true, axis=1, dtype=np.int32), np.maximum(passed - 1, 0)[:, None], axis=1
        )
        return np.where(passed > 0, counted[:, 0], 0)

    def _furthest(self) -> Metric:
        ranking, (false_total, true_total) = self.ranking, self._totals
        false, true = np.zeros((2, self.weights.shape[1]))
        furthest = np.where(np.isnan(false_total * true_total), np.nan, 0.0)
        for start in range(0, len(ranking.order), RUN_RANKS * RUNS_AT_ONCE):
            block = slice(start, start + RUN_RANKS * RUNS_AT_ONCE)
            sides = weighed(self.weights, ranking.order[block], ranking.members[block])
            falses, trues = (np.cumsum(side, axis=0, dtype=np.float64) for side in sides)
            beyond = (true + trues) * false_total - (false + falses) * true_total
            furthest = np.maximum(furthest, beyond[ranking.ends[1:][block]].max(axis=0, initial=0.0))
            false, true = false + falses[-1], true + trues[-1]
        return furthest


def weighed(
    weights: UInt8[np.ndarray, "records weighings"],
    order: Int[np.ndarray, "ranks"],
    members: Bool[np.ndarray, "ranks"],
) -> tuple[UInt8[np.ndarray, "ranks weighings"], UInt8[np.ndarray, "ranks weighings"]]:
    """Weights of non-members and of members in the order of some ranks; 0 for the others."""
    drawn = weights.take(order, axis=0, mode="clip")  # "raise" would copy; the order is in range
    true = drawn * members.view(np.uint8)[:, None]
    return drawn - true, true


def _won(
    weights: UInt8[np.ndarray, "records weighings"],
    order: Int[np.ndarray, "ranks"],
    members: Bool[np.ndarray, "ranks"],
) -> tuple[Float[np.ndarray, "weighings"], Float[np.ndarray, "weighings"], Float[np.ndarray, "weighings"]]:
    """Pairs of a member and a non-member that comes after it, and the weights of all non-members and members."""
    # Whole numbers of 24 bits are exact in single precision.
    number = np.float32 if (RUN_RANKS * int(weights.max(initial=0))) ** 2 * RUNS_AT_ONCE < 2**26 else np.float64
    width, whole = weights.shape[1], len(order) // (RUN_RANKS * RUNS_AT_ONCE) * RUN_RANKS * RUNS_AT_ONCE
    won, sums = np.zeros(width), []
    for places in (
        np.arange(whole).reshape(-1, RUNS_AT_ONCE, RUN_RANKS).swapaxes(1, 2)
    ):  # the first of each run, the second of each
        sides = weighed(weights, order[places.ravel()], members[places.ravel()])
        own, false, true = _halved(*(side.astype(number).reshape(RUN_RANKS, RUNS_AT_ONCE, width) for side in sides))
        won += own
        sums.append((false, true))
    sums.append(weighed(weights, order[whole:], members[whole:]))
    own, false, true = _halved(*(np.concatenate(side, dtype=np.float64)[:, None] for side in zip(*sums, strict=True)))
    return won + own, false[0], true[0]


def _halved(
    false: Float[np.ndarray, "ranks runs weighings"], true: Float[np.ndarray, "ranks runs weighings"]
) -> tuple[Float[np.ndarray, "weighings"], Float[np.ndarray, "runs weighings"], Float[np.ndarray, "runs weighings"]]:
    """Pairs of a member and a non-member after it among two neighbors, then two pairs of neighbors, and so on.

    Args:
        false: weights of non-members in falling order of their scores, of several runs beside each other; used up.
        true: weights of members, likewise.

    Returns:
        The pairs of all runs together, and the sums of both sides of each.
    """
    won = np.zeros(false.shape[-1])
    while (half := len(true) // 2) > 0:
        won += np.einsum("prw,prw->w", true[::2][:half], false[1::2])
        for side in (false, true):
            side[::2][:half] += side[1::2]
        false, true = false[::2], true[::2]
    return won, false.sum(axis=0), true.sum(axis=0)  # of the only rank, if any


class Ranking:
    """Scores sorted once, for the ROCs of any weights of the records.

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

    @cached_property
    def ends(self) -> Bool[np.ndarray, "scored_and_one"]:
        """Numbers of records that a threshold can call members."""
        ends = np.zeros(len(self.order) + 1, dtype=np.bool_)
        ends[self.called] = True
        return ends

    @cached_property
    def orders(self) -> list[slice | Int[np.ndarray, "scored"]]:
        """Places of the order, and again with every tie turned round: what a tie decides, both halve."""
        places = np.arange(len(self.order))
        turned = np.repeat(self.called[:-1] + self.called[1:] - 1, np.diff(self.called)) - places
        return [slice(None)] if self.ends.all() else [slice(None), turned]

    def roc(self, weights: Float[np.ndarray, "records"] | None = None) -> Roc:
        """The ROC in which a record counts `weights` times.

        Args:
            weights: of all records, also of those without a score; default: each counts once.
        """
        counted = np.ones(len(self.order)) if weights is None else weights[self.order]
        called, true = (np.append(0.0, np.cumsum(side))[self.called] for side in (counted, counted * self.members))
        return Roc(called - true, true, self.thresholds, len(self.members) - self.nonmembers, self.nonmembers)

    def reweighed(self, weights: UInt8[np.ndarray, "records weighings"]) -> Reweighed:
        """The ROCs in which all records, also those without a score, count as often as each column says."""
        counted = [_won(weights, self.order[places], self.members[places]) for places in self.orders]
        won, false, true = np.mean(counted, axis=0)
        last = {"false": false[:, None], "true": true[:, None], "thresholds": self.thresholds[-1:]}
        members = len(self.members) - self.nonmembers
        return Reweighed(**last, members=members, nonmembers=self.nonmembers, ranking=self, weights=weights, won=won)


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
