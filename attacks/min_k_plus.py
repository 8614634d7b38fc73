"""Min-K%++: Min-K% on a scale that takes off how surprising any word would be at its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from palisade.attacks.min_k import Share
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack, mean_of_smallest
from palisade.attacks.parts.tokens import TokenAnswers

SMALLEST_SPREAD = 1e-3
"""Lower bound of σ_t, in nats: a model that is certain has none, and rounding must not decide."""


@dataclass(frozen=True, kw_only=True)
class MinKPlus(TokenAttack):
    """Score: mean of the smallest (ℓ_t − μ_t)/σ_t (Zhang et al. 2025, "Min-K%++", section 4).

    Args:
        share: of a text's tokens that count, in (0, 1]; at least one does.

    Raises:
        ValueError: if `share` is out of range.
    """

    share: Share = 0.2

    name = "min_k_plus"
    idea = "Asks of the least expected words whether the model put them above others that could stand there."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities", "moments"))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.means is not None and tokens.variances is not None
        spread = np.sqrt(np.maximum(tokens.variances, SMALLEST_SPREAD**2, dtype=np.float64))
        above = (tokens.log_probabilities.astype(np.float64) - tokens.means) / spread
        return mean_of_smallest(above, tokens, self.share)
