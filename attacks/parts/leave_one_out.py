"""Statistics of shadows: of each target on each record by leave-one-out, and what explains how a record varies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from palisade.attacks.parts.blocks import NUMBERS_AT_ONCE, blocks

LEAST_VARIANCE = 1e-12
"""Resolution of float32 signals; equal signals would divide by zero."""
MODELS_PER_PART = 64
"""Models that are added up together where there are many."""
LEAST_IN_PARTS = 512
"""Models from which on sums of parts take less time than one product of matrices."""
LeftOut = Int[np.ndarray, "targets records"] | None
"""`View.left_out`: the model that is no shadow of a target on a record, −1 where all are; None: nowhere."""


@dataclass(frozen=True)
class Moments:
    """Per target and record, over its shadows on one side (trained on the record, or not).

    Args:
        count: number of shadows.
        mean: their mean, NaN without a shadow.
        squares: sum of their squared deviations from that mean, 0 without a shadow.
    """

    count: Float[np.ndarray, "targets records"]
    mean: Float[np.ndarray, "targets records"]
    squares: Float[np.ndarray, "targets records"]


def leave_one_out(
    values: Float[np.ndarray, "models records"],
    side: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Moments:
    """Moments of `values` over the models on a side, the target's own group left out.

    A product with the 0/1 matrix `others` sums over the shadows alone. Unlike "all minus own", it leaves no rounding
    error behind that depends on the target's membership: such errors would break ties in the attack's favor.

    Args:
        values: a signal.
        side: which models count for a record: `membership` (IN) or its negation (OUT).
        others: `View.others`.
        left_out: `View.left_out`.
    """
    count = counts(side, others, left_out)
    shift = values.mean(axis=0)  # the same whoever trained on the record; near the values, their squares do not cancel
    deviations = np.where(side, values - shift, 0.0)
    with np.errstate(invalid="ignore"):
        mean = sums(deviations, others, left_out) / count
    squares = sums(deviations**2, others, left_out) - np.where(count > 0, count * mean**2, 0.0)
    return Moments(count, shift + mean, np.maximum(squares, 0.0))


def sums(
    values: Float[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "targets records"]:
    """Sums over each target's shadows.

    A model that is left out is never added, rather than taken off again: that would round by who it was. Many models
    are added up in parts, each of which serves all targets that leave none of it out: a target and record then takes as
    many additions as one part has models, and one for each other part.

    Args:
        values: to be added.
        others: `View.others`.
        left_out: `View.left_out`.
    """
    if left_out is None and len(values) < LEAST_IN_PARTS:
        summed: np.ndarray = others.astype(np.float64) @ values
        return summed
    if left_out is not None and len(values) < 2 * MODELS_PER_PART:
        return np.stack([np.where(is_shadow, values, 0.0).sum(axis=0) for is_shadow in shadows(others, left_out)])
    starts = np.arange(0, len(values), MODELS_PER_PART)
    whole, of_parts = np.logical_and.reduceat(others, starts, axis=1), np.add.reduceat(values, starts, axis=0)
    of_cut = _sums_of_cut_parts(values, others, whole)
    if left_out is None:
        return of_cut + whole.astype(np.float64) @ of_parts
    return _sums_leaving_out(values, others, left_out, whole, of_parts, of_cut)


def _sums_leaving_out(
    values: Float[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: Int[np.ndarray, "targets records"],
    whole: Bool[np.ndarray, "targets parts"],
    of_parts: Float[np.ndarray, "parts records"],
    of_cut: Float[np.ndarray, "targets records"],
) -> Float[np.ndarray, "targets records"]:
    """Sums over shadows but the one that is left out on a record, from those of parts."""
    in_part = np.arange(len(values)) // MODELS_PER_PART
    without, records = _sums_without_one(values), np.arange(values.shape[1])
    total = np.empty(left_out.shape)
    for target, (own, left) in enumerate(zip(others, left_out, strict=True)):
        cut = ~whole[target]
        some = np.where(cut[:, None], 0.0, of_parts)
        some[cut.argmax()] = of_cut[target]
        # All parts but that of who is left out, whose other models are added to them.
        before, after = np.zeros((2, len(some) + 1, len(records)))
        np.cumsum(some, axis=0, out=before[1:])
        np.cumsum(some[::-1], axis=0, out=after[1:])
        at = in_part[left]
        apart = before[at, records] + after[len(some) - 1 - at, records] + without[left, records]
        total[target] = np.where(left >= 0, apart, before[-1])
        if len(same := np.flatnonzero((left >= 0) & cut[at])):
            models = np.flatnonzero(own & cut[in_part])
            rest = np.where(models[:, None] != left[same], values[np.ix_(models, same)], 0.0).sum(axis=0)
            total[target, same] = np.where(cut[:, None], 0.0, of_parts[:, same]).sum(axis=0) + rest
    return total


def _sums_of_cut_parts(
    values: Float[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    whole: Bool[np.ndarray, "targets parts"],
) -> Float[np.ndarray, "targets records"]:
    """Sums over the shadows in those parts of which a target leaves somebody out."""
    total = np.empty((len(others), values.shape[1]))
    alike, pattern = np.unique(whole, axis=0, return_inverse=True)
    for number, uncut in enumerate(alike):
        targets = np.flatnonzero(pattern.ravel() == number)
        models = np.flatnonzero(np.repeat(~uncut, MODELS_PER_PART)[: len(values)])
        total[targets] = others[np.ix_(targets, models)].astype(np.float64) @ values[models]
    return total


def _sums_without_one(values: Float[np.ndarray, "models records"]) -> Float[np.ndarray, "models records"]:
    """Of each model the sum over all others of its part."""
    sums_without = np.empty(values.shape)
    for start in range(0, len(values), MODELS_PER_PART):
        part = values[start : start + MODELS_PER_PART]
        sums_without[start : start + MODELS_PER_PART] = (1.0 - np.eye(len(part))) @ part
    return sums_without


def counts(
    side: Bool[np.ndarray, "models #records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "targets #records"]:
    """Number of shadows of each target on a side."""
    count: np.ndarray = side.sum(axis=0, dtype=np.int32) - csr_array(~others, dtype=np.int32) @ side.astype(np.int32)
    if left_out is not None:
        who = np.maximum(left_out, 0)
        was = np.take_along_axis(others, who, axis=1) & np.take_along_axis(side, who, axis=0)
        count = count - (was & (left_out >= 0))
    return count.astype(np.float64)


def shadows(
    others: Bool[np.ndarray, "targets models"], left_out: LeftOut = None
) -> Iterator[Bool[np.ndarray, "models #records"]]:
    """For each target the models that are its shadows on each record."""
    models = np.arange(others.shape[1])[:, None]
    for target, own in enumerate(others):
        yield own[:, None] if left_out is None else own[:, None] & (models != left_out[target])


@dataclass(frozen=True, kw_only=True)
class Within:
    """Variation of a target's shadows on one side within records, summed over these.

    Args:
        freedom: degrees of freedom.
        squares: sums of squared deviations.
    """

    freedom: Float[np.ndarray, "targets 1"]
    squares: Float[np.ndarray, "targets 1"]


@dataclass(frozen=True, eq=False)
class Side:
    """The shadows that did, or did not, train on a record, and their moments block by block.

    Args:
        values: a signal.
        membership: which model was trained on which record.
        others: `View.others`.
        left_out: `View.left_out`.
        inside: whether shadows count that trained on a record, or those that did not.
    """

    values: Float[np.ndarray, "models records"]
    membership: Bool[np.ndarray, "models records"]
    others: Bool[np.ndarray, "targets models"]
    left_out: LeftOut
    inside: bool
    _last: dict[int, Moments] = field(default_factory=dict)

    def blocks(self) -> list[slice]:
        """Blocks of records that are worked on together."""
        return list(blocks(*self.values.shape))

    def moments(self, block: slice) -> Moments:
        """Moments on a block; those of the last block that was asked for are kept."""
        if block.start not in self._last:
            self._last.clear()
            members, left_out = self.membership[:, block], None if self.left_out is None else self.left_out[:, block]
            side = members if self.inside else ~members
            self._last[block.start] = leave_one_out(self.values[:, block], side, self.others, left_out)
        return self._last[block.start]

    def within(self) -> Within:
        """Variation within all records."""
        freedom = squares = np.zeros((len(self.others), 1))
        for block in reversed(self.blocks()):  # the first block is asked for next
            moments = self.moments(block)
            freedom = freedom + np.maximum(moments.count - 1, 0).sum(axis=1, keepdims=True)
            squares = squares + moments.squares.sum(axis=1, keepdims=True)
        return Within(freedom=freedom, squares=squares)


def pooled_variance(*sides: Within) -> Float[np.ndarray, "targets 1"]:
    """Variance within records, pooled over all of them; of the first side that has two models on any record, else 1."""
    variance = np.full(sides[0].squares.shape, np.nan)
    for side in sides:
        with np.errstate(invalid="ignore"):
            variance = np.where(np.isnan(variance), side.squares / side.freedom, variance)
    return np.where(np.isnan(variance), 1.0, variance)


RIDGE_PENALTY = 1e-5


def within_record_slopes(
    phi: Float[np.ndarray, "models records"],
    sums: Float[np.ndarray, "models records kernels"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
) -> Float[np.ndarray, "targets kernels"]:
    """Least squares of φ on the sums, both as deviations from the mean of a target's shadows on a record and side.

    Args:
        phi: log-odds.
        sums: `Similarities.sums` of the membership.
        membership: which model was trained on which record.
        others: the shadows of each target.
    """
    shadows, (models, records, kernels) = others.astype(np.float64), sums.shape
    products = np.zeros((models, (kernels + 1) ** 2))
    of_means = np.zeros((len(others), kernels + 1, kernels + 1))
    step = max(1, NUMBERS_AT_ONCE // (models * (kernels + 1)))
    for block in (slice(start, start + step) for start in range(0, records, step)):
        deviations = phi[:, block] - phi[:, block].mean(axis=0)
        values = np.concatenate([sums[:, block], deviations[..., None]], axis=2, dtype=np.float64)
        products += (values.transpose(0, 2, 1) @ values).reshape(models, -1)
        for side in (membership[:, block], ~membership[:, block]):
            count = np.maximum(shadows @ side, 1)[..., None]
            total = shadows @ (values * side[..., None]).reshape(models, -1)
            weighed = total.reshape(*count.shape[:2], -1) / np.sqrt(count)
            of_means += weighed.transpose(0, 2, 1) @ weighed
    within = (shadows @ products).reshape(of_means.shape) - of_means
    within /= (shadows.sum(axis=1) * records)[:, None, None]
    gram, with_phi = within[:, :-1, :-1], within[:, :-1, -1]
    scale = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0)) + 1e-12
    even = gram / (scale[:, :, None] * scale[:, None, :]) + RIDGE_PENALTY * np.eye(kernels)
    slopes: np.ndarray = np.linalg.solve(even, (with_phi / scale)[..., None])[..., 0] / scale
    return slopes
