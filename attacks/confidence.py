"""The confidence threshold: what the model is sure of was probably in its training set."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.thresholds import Threshold
from palisade.attacks.parts.view import View


class Confidence(Threshold):
    """Score p_y, the probability of the true class (Song & Mittal 2021, section 3.2).

    It ranks as the loss does, and every learnt threshold decides alike; only how far a record lies from its class's
    threshold is measured otherwise. Beyond φ ≈ 37 all records tie at 1, where the loss still separates them.
    """

    name = "confidence"
    idea = "Takes for a member whatever the model is very sure of."

    def _signal(self, view: View) -> Float[np.ndarray, "models records"]:
        loss = view.loss[:, :, 0]
        return in_blocks(loss.shape, view.blocks(), lambda block: np.exp(-loss[:, block]))
