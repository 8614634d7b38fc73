"""The oracle of a filter: a guard that refuses to copy a training text says which texts those are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.attacks.parts.view import View
from palisade.fields import Count


@dataclass(frozen=True, kw_only=True)
class FilterOracle(TokenAttack):
    """Score: share of a text's n-grams whose last token the guard refuses (against MemFree, Ippolito et al. 2023).

    Of a member all are refused; of others as many as they share with training texts. A text of fewer than n tokens is
    never refused anything.

    Args:
        n: tokens of the filter's n-grams, as its card says; None: as the first place at which anything is refused says.

    Raises:
        ValueError: if `n` is below 1.
    """

    n: Count | None = None

    name = "filter_oracle"
    idea = "Asks for the next word of the text again and again; a filter against copying refuses those it knows."
    threat = ThreatModel(outputs="probabilities", tokens=("blocked",))

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.tokens is not None and view.tokens.blocked is not None
        places = np.flatnonzero((view.tokens.blocked & view.tokens.mask).any(axis=(0, 1)))
        own = int(places[0]) + 1 if len(places) else 1
        scored = self if self.n is not None else replace(self, n=own)
        return super(FilterOracle, scored)._score(view)

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.blocked is not None and self.n is not None
        possible = np.maximum(tokens.lengths - self.n + 1, 1)
        shares: np.ndarray = np.sum(tokens.blocked, axis=-1, where=tokens.mask) / possible
        return shares
