"""The base of attacks on language models: a score for each text from the probabilities of its tokens."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.attacks.parts.view import View

SMALLEST_MASS = 1e-6
"""Lower bound of a sum of differences of log p, in nats: less is rounding."""


class TokenAttack(Attack):
    """Scores texts by their tokens, block by block; an attack file adds `_of_texts`.

    A text's score follows from its own tokens alone: neither padding nor the company in a block plays a part.
    """

    @abstractmethod
    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]: ...

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        tokens = view.tokens
        assert tokens is not None
        shape = tokens.models, tokens.records
        return in_blocks(shape, tokens.blocks(), lambda block: self._of_texts(tokens.about(block)))


def difference(tokens: TokenAnswers) -> Float[np.ndarray, "models records tokens"]:
    """Δ_t = ℓ_t − ℓ_t under the base, 0 on padding."""
    assert tokens.base_log_probabilities is not None
    gained = tokens.log_probabilities.astype(np.float64) - tokens.base_log_probabilities
    return np.where(tokens.mask, gained, 0.0)


def mean_of_smallest(
    values: Float[np.ndarray, "models records tokens"], tokens: TokenAnswers, share: float
) -> Float[np.ndarray, "models records"]:
    """Mean of a share of each text's smallest values, rounded down, at least one.

    Args:
        values: of each token.
        tokens: whose mask says which count.
        share: in (0, 1].
    """
    counted = np.maximum(1, np.floor(np.round(share * tokens.lengths, 9))).astype(int)
    ascending = np.sort(np.where(tokens.mask, values, np.inf), axis=-1)
    within = np.arange(ascending.shape[-1]) < counted[:, None]
    means: np.ndarray = np.sum(ascending, axis=-1, where=within) / counted
    return means
