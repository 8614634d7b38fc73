"""The loss threshold: what the model fits well was probably in its training set."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from attacks.base import Attack, ThreatModel, View


class LossThreshold(Attack):
    """Score −loss (Yeom et al. 2018, section 3.3).

    Training lowers the loss of members more than that of others. One threshold for all records cannot tell an easy
    non-member from a hard member, hence it is weak at low false positive rates.
    """

    name = "loss"
    threat = ThreatModel(outputs="probabilities")

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        return -view.loss[:, :, 0]
