"""Difficulty calibration: how much lower is the loss than a record as hard as this one makes expect?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class Calibration(Attack):
    """Score mean loss over the OUT models − loss under the target (Watson et al. 2022).

    The simplest way to keep easy non-members from being called members. Models are brought to one scale beforehand
    (`signals.standardized`). As losses of different records have no common scale, a few that other models happen to
    misjudge badly can top the ranking; LiRA and `Reference` compare on the scale of φ.
    """

    name = "calibration"
    idea = "Compares how well the model fits the record with how well models fit it that have never seen it."
    threat = ThreatModel(outputs="top-k", shadows="offline")

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        phi = view.standardized_log_odds[:, :, 0]

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            loss = np.logaddexp(0.0, -phi[:, block])
            return view.moments(loss, block, inside=False).mean - loss

        return in_blocks(phi.shape, view.blocks(), score)
