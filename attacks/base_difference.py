"""The base difference: how much did training help with this very text?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack, difference
from palisade.attacks.parts.tokens import TokenAnswers


class BaseDifference(TokenAttack):
    """Score mean ℓ_t − mean ℓ_t under the public base that training began with (Carlini et al. 2021, section 5.2).

    The base knows how hard a text is without having seen it: one public model does what calibration takes shadows for.
    Base and model must cut texts into the same tokens.
    """

    name = "base_difference"
    idea = "Compares how well the model foretells the text with how well it did before it was trained."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities",), base=True)

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        return tokens.mean(difference(tokens))
