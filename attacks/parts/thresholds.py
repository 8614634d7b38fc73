"""Thresholds learned on shadow models, one for all classes or one each."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.leave_one_out import LeftOut
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


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
        return signal - class_thresholds(signal, view.labels, view.membership, view.others, view.left_out)


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
    thresholds = np.empty_like(signal)
    for label in np.unique(labels):
        own = labels == label
        left_out_shadows = None if left_out is None else left_out[:, own]
        thresholds[:, own] = shadow_thresholds(signal[:, own], membership[:, own], others, left_out_shadows)[:, None]
    if (lacking := np.isnan(thresholds)).any():
        of_all = shadow_thresholds(signal, membership, others, left_out)
        thresholds = np.where(lacking, of_all[:, None], thresholds)
    return thresholds


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
        is_shadow = shadows[model]
        nonmembers, members = shadows @ count
        if left_out is not None:
            is_shadow &= model != left_out[target, record]
            nonmembers, members = np.bincount(member[is_shadow], minlength=2)
        if members == 0 or nonmembers == 0:
            continue
        # (TPR − FPR) · members · nonmembers, in whole numbers: rounding must not depend on who is left out.
        np.take(np.outer(shadows, [-members, nonmembers]).ravel(), kind, out=gain, mode="clip")
        if left_out is not None:
            gain[~is_shadow] = 0
        np.cumsum(gain, out=gain)
        reached = gain if len(last) == len(gain) else gain[last]
        first = np.searchsorted(last, np.argmax(is_shadow))  # what lies above all shadows is none of their scores
        thresholds[target] = score[last[first + np.argmax(reached[first:])]]
    return thresholds
