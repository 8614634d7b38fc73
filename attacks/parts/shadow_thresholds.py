"""Thresholds that do not look at the target: chosen on its shadows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks.parts.leave_one_out import LeftOut


def shadow_thresholds(
    scores: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "models"]:
    """For each target the threshold with the best balanced accuracy on the pooled records of its shadows.

    The best threshold in hindsight finds leakage in noise; an attacker only has shadow models to choose by (Carlini et
    al. 2022, section 4). Of equally good thresholds the highest one is taken.

    Args:
        scores: higher = more likely a member; NaN is left out.
        membership: which model was trained on which record.
        others: `View.others`.
        left_out: `View.left_out`.

    Returns:
        NaN for a target whose shadows have no scored member or no scored non-member.
    """
    scores = np.asarray(scores, dtype=np.float64)
    model, record = np.nonzero(~np.isnan(scores))
    falling = np.argsort(-scores[model, record])  # sorted once for all targets
    model, record = model[falling], record[falling]
    score, member = scores[model, record], membership[model, record]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])  # ties move together
    kind = 2 * model + member
    count = np.bincount(kind, minlength=2 * len(scores)).reshape(-1, 2)

    thresholds, gain = np.full(len(scores), np.nan), np.empty(len(score), dtype=np.int64)
    for target, shadows in enumerate(others):
        kept = shadows[model]
        nonmembers, members = shadows @ count
        if left_out is not None:
            kept &= model != left_out[target, record]
            nonmembers, members = np.bincount(member[kept], minlength=2)
        if members == 0 or nonmembers == 0:
            continue
        # (TPR − FPR) · members · nonmembers, in whole numbers: rounding must not depend on who is left out.
        np.take(np.outer(shadows, [-members, nonmembers]).ravel(), kind, out=gain, mode="clip")
        if left_out is not None:
            gain[~kept] = 0
        np.cumsum(gain, out=gain)
        reached = gain if len(last) == len(gain) else gain[last]
        first = np.searchsorted(last, np.argmax(kept))  # what lies above all shadows is none of their scores
        thresholds[target] = score[last[first + np.argmax(reached[first:])]]
    return thresholds
