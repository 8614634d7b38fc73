"""Alignment: did the weights move as this record would have them?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View

CHECKPOINTS_NEEDED = "needs checkpoints; train with fleet.keep_checkpoints=9 and grant them with threat=white_box"


class Alignment(Attack):
    """Score: how well a record's descent direction agrees with the way that training went.

    Every step of training is a sum over the step's records, and a member's own gradient is one of the terms; noise and
    the gradients of others are nearly orthogonal to it. This is the adversary of DP-SGD's proof, as far as kept weights
    allow: the more checkpoints, the nearer it comes to seeing every step (Nasr et al. 2023, "Tight Auditing of
    Differentially Private Machine Learning", section 4; Andrew et al. 2024, "One-shot Empirical Privacy Estimation for
    Federated Learning", section 3).
    """

    name = "alignment"
    idea = (
        "Holds the weights and earlier copies of them, and asks whether training moved them the way that this"
        " record would have."
    )
    threat = ThreatModel(gradients=True, checkpoints=True)  # the initial weights and those that were kept

    def missing(self, view: View) -> str | None:
        """The reason why this attack is skipped on this view, None if it can run."""
        if view.signals is not None:
            return super().missing(view)
        return None if view.alignment is not None else CHECKPOINTS_NEEDED

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.alignment is not None
        return view.alignment
