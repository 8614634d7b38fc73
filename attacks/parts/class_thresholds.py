"""One threshold a class: some classes are easier than others, so what is a low loss depends on the class."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.leave_one_out import LeftOut
from palisade.attacks.parts.shadow_thresholds import shadow_thresholds
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
        kept_out = None if left_out is None else left_out[:, own]
        thresholds[:, own] = shadow_thresholds(signal[:, own], membership[:, own], others, kept_out)[:, None]
    if (lacking := np.isnan(thresholds)).any():
        of_all = shadow_thresholds(signal, membership, others, left_out)
        thresholds = np.where(lacking, of_all[:, None], thresholds)
    return thresholds
