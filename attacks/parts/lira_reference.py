"""LiRA as the code that its authors published computes it, for comparison with numbers made by that code."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks.parts.blocks import blocks, in_blocks
from palisade.attacks.parts.leave_one_out import LeftOut, counts, leave_one_out, shadows, sums

STD_EPSILON = 1e-30  # what the authors add to a standard deviation


def reference_scores(
    phi: Float[np.ndarray, "models records queries"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut = None,
    *,
    online: bool,
    per_record: bool,
) -> Float[np.ndarray, "models records"]:
    """Normal log-likelihood ratios around medians, the mean over queries (Carlini et al. 2022, published code).

    How it differs from the paper's text: its fixed variance is the spread of the whole matrix, between records too;
    online, that of IN serves for OUT as well; offline, the score is −log p(φ; OUT), which is two-sided. One thing
    differs from that code: each model is a target with all others as shadows, where the code keeps as many shadows a
    side as the record with the fewest has.

    Args:
        phi: log-odds.
        membership: which model was trained on which record.
        others: `View.others`.
        left_out: `View.left_out`.
        online: whether models that trained on the record are used.
        per_record: whether each record has standard deviations of its own, rather than one for all.
    """

    queries = np.moveaxis(phi, -1, 0)
    fixed = _spread(phi, membership if online else ~membership, others, left_out)

    def score(block: slice) -> Float[np.ndarray, "models block"]:
        members, left = membership[:, block], None if left_out is None else left_out[:, block]

        def log_density(values: np.ndarray, side: np.ndarray) -> Float[np.ndarray, "models block"]:
            scale = fixed
            if per_record:
                moments = leave_one_out(values, side, others, left)
                with np.errstate(invalid="ignore"):
                    scale = np.sqrt(moments.squares / moments.count)
            scale = scale + STD_EPSILON
            return -np.log(scale) - ((values - _medians(values, side, others, left)) / scale) ** 2 / 2

        scores = -np.mean([log_density(values[:, block], ~members) for values in queries], axis=0)
        if online:
            scores += np.mean([log_density(values[:, block], members) for values in queries], axis=0)
        return scores

    return in_blocks(membership.shape, blocks(*membership.shape), score)


def _spread(
    phi: Float[np.ndarray, "models records queries"],
    side: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut,
) -> Float[np.ndarray, "targets 1"]:
    """The standard deviation of all φ on a side, whatever the record and the query."""
    middle, total, squares, count = phi.mean(), 0.0, 0.0, 0.0
    for block in blocks(*side.shape):
        left = None if left_out is None else left_out[:, block]
        deviations = np.where(side[:, block, None], phi[:, block] - middle, 0.0)
        total = total + sums(deviations.sum(axis=2), others, left).sum(axis=1)
        squares = squares + sums((deviations**2).sum(axis=2), others, left).sum(axis=1)
        count = count + counts(side[:, block], others, left).sum(axis=1) * phi.shape[2]
    with np.errstate(invalid="ignore"):
        return np.sqrt(squares / count - (total / count) ** 2)[:, None]


def _medians(
    values: Float[np.ndarray, "models records"],
    side: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
    left_out: LeftOut,
) -> Float[np.ndarray, "targets records"]:
    """The median over each target's shadows on a side, NaN where it has none. One sort serves all targets."""
    order = values.argsort(axis=0)
    ordered, on_side = np.take_along_axis(values, order, axis=0), np.take_along_axis(side, order, axis=0)
    medians = np.empty((len(others), values.shape[1]))
    for target, is_shadow in enumerate(shadows(others, left_out)):
        seen = (on_side & np.take_along_axis(is_shadow, order, axis=0)).cumsum(axis=0, dtype=np.int32)
        count = seen[-1]
        middle = [(seen >= place).argmax(axis=0) for place in ((count + 1) // 2, count // 2 + 1)]
        medians[target] = np.take_along_axis(ordered, np.stack(middle), axis=0).mean(axis=0)
        medians[target, count == 0] = np.nan
    return medians
