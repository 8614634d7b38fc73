"""Thresholds learned on shadow models, one for all classes or one each."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import blocks, in_blocks
from palisade.attacks.parts.leave_one_out import LeftOut
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View

MAX_PAIRS = 2**22
"""Pairs of a model and a record that thresholds are learnt on."""
PAIRS_AT_ONCE = 2**8
"""Pairs among which a threshold is looked for together."""


@dataclass(frozen=True, kw_only=True)
class Threshold(Attack):
    """Calls a record a member where a signal is high; an attack file adds the `_signal`.

    Args:
        per_class: score each record by how far its signal lies above the threshold that separates members of its class
            best on the shadows, so that 0 is their decision (Song & Mittal 2021, section 3.2). It needs shadows;
            without it the score is the signal, and any threshold is one for all classes.
    """

    per_class: bool = False

    @property
    def threat(self) -> ThreatModel:
        """Scores of the target; with a threshold for each class, of IN and OUT shadows too."""
        return ThreatModel(outputs="top-k", shadows="online" if self.per_class else "none")

    @abstractmethod
    def _signal(self, view: View) -> Float[np.ndarray, "models records"]: ...

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        signal = self._signal(view)
        if not self.per_class:
            return signal
        thresholds = class_thresholds(signal, view.labels, view.membership, view.others, view.left_out)
        return in_blocks(signal.shape, view.blocks(), lambda block: signal[:, block] - thresholds[:, block])


def class_thresholds(
    signal: Float[np.ndarray, "models records"],
    labels: Int[np.ndarray, "records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "models records"]:
    """The threshold of each record's class, for each target learnt on its shadows alone.

    A class of which the shadows lack members or non-members takes the threshold of all classes together; NaN where
    they lack them altogether.

    Args:
        signal: higher = more likely a member.
        labels: the true classes.
        membership: which model was trained on which record.
        others: `View.others`.
        left_out: `View.left_out`.
    """
    classes, of_record = np.unique(labels, return_inverse=True)
    thresholds = np.empty((len(signal), len(classes)))
    for place in range(len(classes)):
        own = of_record == place
        left_out_shadows = None if left_out is None else left_out[:, own]
        thresholds[:, place] = shadow_thresholds(signal[:, own], membership[:, own], others, left_out_shadows)
    if (lacking := np.isnan(thresholds)).any():
        of_all = shadow_thresholds(signal, membership, others, left_out)
        thresholds = np.where(lacking, of_all[:, None], thresholds)
    return in_blocks(signal.shape, blocks(*signal.shape), lambda block: thresholds[:, of_record[block]])


def shadow_thresholds(
    scores: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "models"]:
    """For each target the threshold with the best balanced accuracy on the pooled records of its shadows.

    The best threshold in hindsight finds leakage in noise; an attacker only has shadow models to choose by (Carlini et
    al. 2022, section 4). Of equally good thresholds the highest one is taken. Of more than 2²² pairs of a model and a
    record, evenly spaced records with at most as many are learnt on.

    Args:
        scores: higher = more likely a member; NaN is left out.
        membership: which model was trained on which record.
        others: `View.others`.
        left_out: `View.left_out`.

    Returns:
        NaN for a target whose shadows have no scored member or no scored non-member.
    """
    spaced = slice(None, None, max(1, -(-scores.size // MAX_PAIRS)))
    scores, membership = np.asarray(scores[:, spaced], dtype=np.float64), membership[:, spaced]
    model, record = np.nonzero(~np.isnan(scores))
    falling = np.argsort(-scores[model, record])  # sorted once for all targets
    model, record = model[falling], record[falling]
    score, member = scores[model, record], membership[model, record]
    ends = np.append(score[1:] != score[:-1], True)[: len(score)]  # ties move together
    block = np.arange(len(score)) // PAIRS_AT_ONCE
    blocks = -(-len(score) // PAIRS_AT_ONCE)
    kinds = np.bincount((model * blocks + block) * 2 + member, minlength=len(scores) * blocks * 2)
    of_shadows = (others.astype(np.float64) @ kinds.reshape(len(scores), -1)).astype(np.int64)
    block_of = np.full(scores.shape, -1, dtype=np.int32)
    block_of[model, record] = block
    of_model, of_record, is_member, is_end = (
        np.pad(values, (0, blocks * PAIRS_AT_ONCE - len(score))).reshape(blocks, PAIRS_AT_ONCE)
        for values in (model, record, member, ends)
    )
    has_ends = is_end.any(axis=1)

    thresholds = np.full(len(scores), np.nan)
    for target, shadows in enumerate(others):
        count = of_shadows[target].reshape(blocks, 2)
        if left_out is not None:
            absent = left_out[target, spaced]
            place = absent, np.arange(len(absent))
            missed = (absent >= 0) & shadows[absent] & (block_of[place] >= 0)
            count -= np.bincount((2 * block_of[place] + membership[place])[missed], minlength=2 * blocks).reshape(-1, 2)
        nonmembers, members = count.sum(axis=0)
        if members == 0 or nonmembers == 0:
            continue
        # (TPR − FPR) · members · nonmembers, in whole numbers: rounding must not depend on who is left out. Within a
        # block it is at most that of all its members and of none of its non-members.
        reached = count.cumsum(axis=0)
        before = reached - count
        reachable = is_end[:, -1] & (reached.sum(axis=1) > 0)
        least = (nonmembers * reached[:, 1] - members * reached[:, 0])[reachable].max(initial=0)  # 0: all are called
        most = nonmembers * reached[:, 1] - members * before[:, 0]
        near = np.flatnonzero((most >= least) & has_ends)
        is_shadow = shadows[of_model[near]]
        if left_out is not None:
            is_shadow &= of_model[near] != absent[of_record[near]]
        false, true = (
            before[near, side, None] + np.cumsum(is_shadow & (is_member[near] == side), axis=1) for side in (0, 1)
        )
        # What lies above all shadows is none of their scores.
        gain = np.where(is_end[near] & (true + false > 0), nonmembers * true - members * false, -1)
        at, place_within = np.unravel_index(gain.argmax(), gain.shape)
        thresholds[target] = score[near[at] * PAIRS_AT_ONCE + place_within]
    return thresholds
