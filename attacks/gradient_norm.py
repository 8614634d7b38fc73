"""The gradient norm: what a model has fitted pulls at its weights no more."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class GradientNorm(Attack):
    """Score −‖∂loss/∂θ‖ over all layers (Nasr et al. 2019, section 3).

    Training ends where the gradients of members are small. As the loss threshold it compares records with each other,
    so that easy non-members look like members.
    """

    name = "gradient_norm"
    idea = (
        "Holds the weights, and takes for a member whatever they would hardly change for: that has been learned"
        " already."
    )
    threat = ThreatModel(gradients=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.gradient_norms is not None
        scores = room(view.gradient_norms.shape[:2])
        for own, layers in zip(scores, view.gradient_norms, strict=True):
            own[:] = -np.linalg.norm(layers.astype(np.float64), axis=-1)
        return scores
