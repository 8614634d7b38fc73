"""BASE: is the target surer of the record than models are expected to be?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.expected_confidence import expected_online, log_ratio
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Positive


@dataclass(frozen=True, kw_only=True)
class BASE(Attack):
    """Score log p(x; θ) − log p̄(x) (Lassila et al. 2025, "Practical Bayes-Optimal Membership Inference Attacks").

    Dividing by p̄ = ½(mean_IN + mean_OUT), the confidence expected of a model that may or may not have been trained on
    the record, separates memorized records from easy ones. It fits a mean and no variance, hence it is strong with few
    shadows. It ranks records as online RMIA does, with neither population nor ties. Of a text, p is that of a token on
    the geometric mean, with T = 1 whatever is set.

    Args:
        temperature: of the softmax, above 0; 2 is the value published for Purchase100. Fixed before labels are seen.

    Raises:
        ValueError: if `temperature` is not positive.
    """

    temperature: Positive = 2.0

    name = "base"
    idea = (
        "Compares how sure the model is of the record with how sure models are of it on average, whether they"
        " had seen it or not."
    )

    @property
    def threat(self) -> ThreatModel:
        """Confidence at the temperature, of shadows IN and OUT."""
        return ThreatModel(outputs="top-k", shadows="online", temperature=self.temperature)

    def suited(self, view: View) -> Self:
        """With T = 1 on texts."""
        return self if view.tokens is None else replace(self, temperature=1.0)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        log_confidence = view.log_confidence(self.temperature)[:, :, 0]

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            log_p = log_confidence[:, block]
            log_p = log_p - log_p.max(axis=0)  # the ratio stays as it is, and no record's probabilities all vanish
            shadows = view.membership[:, block], view.others, view.left_out_of(block)
            return log_ratio(log_p, expected_online(np.exp(log_p), *shadows))

        return in_blocks(log_confidence.shape, view.blocks(), score)
