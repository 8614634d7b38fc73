"""Attack-R: is the record's loss lower than under models that did not train on it?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.leave_one_out import LEAST_VARIANCE, Side, pooled_variance, shadows
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class Reference(Attack):
    """Score the share of OUT models under which the record's loss is larger (Ye et al. 2022, Attack R).

    A record is compared with itself, which cancels how hard it is. With k models the raw share has k + 1 levels and
    cannot decide below a false positive rate of 1/(k + 1). So the steps are smoothed on the log-odds scale, where a
    larger φ is a lower loss: each OUT model counts by Student's t₂ distribution function of (φ − φ_out)/σ, with σ the
    spread within records, pooled over all of them. Its tails fall so slowly that confident records never tie, one OUT
    model is enough, and unlike in offline LiRA a record's φ may have any shape.
    """

    name = "reference"
    idea = "Asks whether the model fits the record better than models do that have never seen it."
    threat = ThreatModel(outputs="top-k", shadows="offline")

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        fleet, every_phi = (view.membership, view.others, view.left_out), view.standardized_log_odds[:, :, 0]
        side = Side(every_phi, *fleet, inside=False)
        variances = np.maximum(pooled_variance(side.within()), LEAST_VARIANCE)

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            phi, outside = every_phi[:, block], ~view.membership[:, block]
            smoothed = np.empty(phi.shape)
            for target, is_shadow in enumerate(shadows(view.others, view.left_out_of(block))):
                own = view.others[target]
                above = phi[target] - phi[own]
                # From −1 to 1: t₂'s distribution function is (1 + this)/2.
                above /= np.sqrt(2 * variances[target] + above**2)
                smoothed[target] = np.einsum("mr,mr->r", above, (outside & is_shadow)[own])
            with np.errstate(invalid="ignore"):
                return (1 + smoothed / side.moments(block).count) / 2

        return in_blocks(every_phi.shape, side.blocks(), score)
