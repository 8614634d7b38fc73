"""The zlib ratio: is the text more likely than its compressed length makes expect?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack
from palisade.attacks.parts.tokens import TokenAnswers


class ZlibRatio(TokenAttack):
    """Score Σ ℓ_t / length of the text after zlib, in bytes (Carlini et al. 2021, section 5.2).

    A text that repeats itself is likely under any model, and short when compressed.
    """

    name = "zlib"
    idea = "Compares how well the model foretells the text with how far a packing program shortens it."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities", "bytes"))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.zlib_bytes is not None
        nats: np.ndarray = tokens.mean(tokens.log_probabilities) * tokens.lengths
        return nats / tokens.zlib_bytes
