"""The oracle of a filter: a guard that refuses to copy a training text says which texts those are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.fields import Count


@dataclass(frozen=True, kw_only=True)
class FilterOracle(TokenAttack):
    """Score: share of a text's n-grams whose last token the guard refuses (against MemFree, Ippolito et al. 2023).

    Of a member all are refused; of others as many as they share with training texts. A text of fewer than n tokens is
    never refused anything.

    Args:
        n: tokens of the filter's n-grams, as its card says.

    Raises:
        ValueError: if `n` is below 1.
    """

    n: Count = 10

    name = "filter_oracle"
    idea = "Asks for the next word of the text again and again; a filter against copying refuses those it knows."
    threat = ThreatModel(outputs="probabilities", tokens=("blocked",))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.blocked is not None
        possible = np.maximum(tokens.lengths - self.n + 1, 1)
        shares: np.ndarray = np.sum(tokens.blocked, axis=-1, where=tokens.mask) / possible
        return shares
