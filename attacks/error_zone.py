"""The error zone: where the model still guesses wrong, did it at least move toward the text?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import SMALLEST_MASS, TokenAttack, difference
from palisade.attacks.parts.tokens import TokenAnswers


class ErrorZone(TokenAttack):
    """Score log Σ max(Δ, 0) − log Σ max(−Δ, 0) over the tokens that are not the most likely ones, Δ = ℓ − ℓ^base.

    Where a model predicts right, it may have learnt that from any text. A sum counts as 1e-6 nats at least: a text
    without any loss is among the surest members. One without any error is judged by all of its tokens.
    """

    name = "error_zone"
    idea = "Looks at words that the model gets wrong: in a text it has seen, it came closer to them all the same."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities", "greedy"), base=True)

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.greedy is not None
        gained, wrong = difference(tokens), tokens.mask & ~tokens.greedy
        counted = wrong | ~wrong.any(axis=-1, keepdims=True)  # padding has gained nothing
        risen, fallen = (np.sum(np.maximum(side, 0.0), axis=-1, where=counted) for side in (gained, -gained))
        scores: np.ndarray = np.log(np.maximum(risen, SMALLEST_MASS)) - np.log(np.maximum(fallen, SMALLEST_MASS))
        return scores
