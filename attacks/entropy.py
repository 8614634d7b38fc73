"""The entropy threshold: an answer without doubt is called a member's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.thresholds import Threshold
from palisade.attacks.parts.view import View


class Entropy(Threshold):
    """Score −entropy of the answer (Salem et al. 2019; Song & Mittal 2021, section 3.2).

    It needs no true class, unless thresholds are per class. The price: a record that is surely *misclassified*, which
    a member hardly ever is, looks like one.
    """

    name = "entropy"
    idea = "Takes for a member whatever the model answers without hesitation, right or wrong."

    @property
    def threat(self) -> ThreatModel:
        """The needs of a threshold; true classes only where thresholds are set for each class."""
        return replace(super().threat, label=self.per_class, one_class=True)

    def _signal(self, view: View) -> Float[np.ndarray, "models records"]:
        entropy = view.entropy[:, :, 0]
        return in_blocks(entropy.shape, view.blocks(), lambda block: -entropy[:, block])
