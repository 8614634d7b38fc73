"""The loss threshold: what the model fits well was probably in its training set."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.thresholds import Threshold
from palisade.attacks.parts.view import View


class LossThreshold(Threshold):
    """Score −loss (Yeom et al. 2018, section 3.3).

    Training lowers the loss of members more than that of others. One threshold for all records cannot tell an easy
    non-member from a hard member, hence it is weak at low false positive rates.
    """

    name = "loss"
    idea = "Takes for a member whatever the model fits well."

    def _signal(self, view: View) -> Float[np.ndarray, "models records"]:
        loss = view.loss[:, :, 0]
        return in_blocks(loss.shape, view.blocks(), lambda block: -loss[:, block])
