"""Attack-R: is the record's loss lower than under models that did not train on it?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.leave_one_out import LEAST_VARIANCE, leave_one_out, pooled_variance, shadows
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
        phi, outside = view.standardized_log_odds[:, :, 0], ~view.membership
        moments = leave_one_out(phi, outside, view.others, view.left_out)
        variances = np.maximum(pooled_variance(moments), LEAST_VARIANCE)
        smoothed = np.empty_like(phi)
        for target, (is_shadow, variance) in enumerate(
            zip(shadows(view.others, view.left_out), variances, strict=True)
        ):
            own = view.others[target]
            above = phi[target] - phi[own]
            above /= np.sqrt(2 * variance + above**2)  # from −1 to 1: t₂'s distribution function is (1 + this)/2
            smoothed[target] = np.einsum("mr,mr->r", above, (outside & is_shadow)[own])
        with np.errstate(invalid="ignore"):
            return (1 + smoothed / moments.count) / 2
