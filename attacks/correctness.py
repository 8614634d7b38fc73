"""The gap attack: who is classified correctly is called a member."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class Correctness(Attack):
    """Score 1 where the predicted class is the true one, else 0 (Yeom et al. 2018, section 3.2).

    It needs a single label per record, so no masking of confidences stops it: its balanced accuracy at threshold 1 is
    exactly ½ + (train accuracy − test accuracy)/2. An attack that does worse sees masked outputs, not protection.
    """

    name = "correctness"
    idea = "Takes for a member whatever the model names right."
    threat = ThreatModel(outputs="label", one_class=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        correct = view.correct[:, :, 0]
        return in_blocks(correct.shape, view.blocks(), lambda block: correct[:, block].astype(np.float64))
