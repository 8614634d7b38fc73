"""What the shadows of each target say about each record, for all targets of a fleet at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

LEAST_VARIANCE = 1e-12
"""What float32 signals resolve; equal signals would divide by zero."""


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
) -> Moments:
    """Moments of `values` over the models on a side, the target's own group left out.

    A product with the 0/1 matrix `others` sums over the shadows alone. Unlike "all minus own", it leaves no rounding
    error behind that depends on the target's membership: such errors would break ties in the attack's favor.

    Args:
        values: a signal.
        side: which models count for a record: `membership` (IN) or its negation (OUT).
        others: `View.others`.
    """
    shadows = others.astype(np.float64)
    count = shadows @ side
    shift = values.mean(axis=0)  # the same whoever trained on the record; near the values, their squares do not cancel
    deviations = np.where(side, values - shift, 0.0)
    with np.errstate(invalid="ignore"):
        mean = shadows @ deviations / count
    squares = shadows @ deviations**2 - np.where(count > 0, count * mean**2, 0.0)
    return Moments(count, shift + mean, np.maximum(squares, 0.0))


def pooled_variance(*sides: Moments) -> Float[np.ndarray, "targets 1"]:
    """Variance within records, pooled over all of them; of the first side that has two models on any record, else 1."""
    variance = np.full((len(sides[0].count), 1), np.nan)
    for side in sides:
        freedom = np.maximum(side.count - 1, 0).sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            own = side.squares.sum(axis=1, keepdims=True) / freedom
        variance = np.where(np.isnan(variance), own, variance)
    return np.where(np.isnan(variance), 1.0, variance)
