"""Statistics of shadows: of each target on each record by leave-one-out, and what explains how a record varies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

LEAST_VARIANCE = 1e-12
"""Resolution of float32 signals; equal signals would divide by zero."""
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

    A model that is left out is never added, rather than taken off again: that would round by who it was.

    Args:
        values: to be added.
        others: `View.others`.
        left_out: `View.left_out`.
    """
    if left_out is None:
        summed: np.ndarray = others.astype(np.float64) @ values
        return summed
    return np.stack([np.where(is_shadow, values, 0.0).sum(axis=0) for is_shadow in shadows(others, left_out)])


def counts(
    side: Bool[np.ndarray, "models #records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "targets #records"]:
    """Number of shadows of each target on a side."""
    count: np.ndarray = others.astype(np.float64) @ side
    if left_out is not None:
        who = np.maximum(left_out, 0)
        was = np.take_along_axis(others, who, axis=1) & np.take_along_axis(side, who, axis=0)
        count = count - (was & (left_out >= 0))
    return count


def shadows(
    others: Bool[np.ndarray, "targets models"], left_out: LeftOut = None
) -> Iterator[Bool[np.ndarray, "models #records"]]:
    """For each target the models that are its shadows on each record."""
    models = np.arange(others.shape[1])[:, None]
    for target, own in enumerate(others):
        yield own[:, None] if left_out is None else own[:, None] & (models != left_out[target])


def pooled_variance(*sides: Moments) -> Float[np.ndarray, "targets 1"]:
    """Variance within records, pooled over all of them; of the first side that has two models on any record, else 1."""
    variance = np.full((len(sides[0].count), 1), np.nan)
    for side in sides:
        freedom = np.maximum(side.count - 1, 0).sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            own = side.squares.sum(axis=1, keepdims=True) / freedom
        variance = np.where(np.isnan(variance), own, variance)
    return np.where(np.isnan(variance), 1.0, variance)


RIDGE_PENALTY = 1e-5
AT_ONCE = 2**22
"""Numbers that are worked on together."""


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
    step = max(1, AT_ONCE // (models * (kernels + 1)))
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
