"""The modified entropy threshold: an answer without doubt about the true class is called a member's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.thresholds import Threshold
from palisade.attacks.parts.view import View


@dataclass(frozen=True, kw_only=True)
class ModifiedEntropy(Threshold):
    """Score −modified entropy, as published with a threshold for each class (Song & Mittal 2021, section 3.2).

    Unlike entropy it is low only where the model is sure of the true class, and it uses how the other classes share
    the rest, which the loss does not.

    Args:
        per_class: as in `Threshold`.
    """

    name = "modified_entropy"
    idea = "Takes for a member whatever the model is sure of and right about."
    per_class: bool = True

    @property
    def threat(self) -> ThreatModel:
        """The needs of a threshold, on answers for one class a record."""
        return replace(super().threat, one_class=True)

    def _signal(self, view: View) -> Float[np.ndarray, "models records"]:
        modified_entropy = view.modified_entropy[:, :, 0]
        return in_blocks(modified_entropy.shape, view.blocks(), lambda block: -modified_entropy[:, block])
