"""p̄(x): how much probability a model is expected to give a record's true class, before one asks the target."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks.parts.leave_one_out import LeftOut, counts, sums

MIN_PROBABILITY = float(np.finfo(np.float64).tiny)  # keeps the logarithm of a probability that underflowed finite


def mean_confidence(
    p: Float[np.ndarray, "models records"],
    side: Bool[np.ndarray, "models #records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "targets records"]:
    """The mean over each target's shadows on a side, NaN where it has none.

    A plain sum of probabilities: that of deviations from a common mean would round a tiny mean to zero or below.

    Args:
        p: the probability of the true class, in [0, 1].
        side: which models count for a record: `membership` (IN) or its negation (OUT).
        others: `View.others`.
        left_out: `View.left_out`.
    """
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = sums(np.where(side, p, 0.0), others, left_out) / counts(side, others, left_out)
    return mean


def expected_online(
    p: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "targets records"]:
    """p̄ = ½(mean_IN + mean_OUT), NaN where a side has no shadow."""
    inside, outside = (mean_confidence(p, side, others, left_out) for side in (membership, ~membership))
    return (inside + outside) / 2


def expected_offline(
    outside: Float[np.ndarray, "... records"], a: float | Float[np.ndarray, "... 1"]
) -> Float[np.ndarray, "... records"]:
    """p̄ = ½[(1 + a) mean_OUT + 1 − a], which takes mean_IN to be 1 − a + a · mean_OUT."""
    return ((1 + a) * outside + 1 - a) / 2


def log_ratio(
    log_p: Float[np.ndarray, "... records"], expected: Float[np.ndarray, "... records"]
) -> Float[np.ndarray, "... records"]:
    """log p/p̄."""
    return log_p - np.log(np.maximum(expected, MIN_PROBABILITY))
