"""Sharpness: how sure the model is along the text, whatever stands there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack
from palisade.attacks.parts.tokens import TokenAnswers


class Sharpness(TokenAttack):
    """Score mean μ_t, the negative entropy over the vocabulary, in nats.

    Near chance in practice: models are as sure of texts like their members as of the members themselves. It needs no
    word of the text but those before each place.
    """

    name = "sharpness"
    idea = "Takes for a member whatever text leaves the model in little doubt how it goes on."
    threat = ThreatModel(outputs="probabilities", label=False, tokens=("log_probabilities", "moments"))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.means is not None
        return tokens.mean(tokens.means)
