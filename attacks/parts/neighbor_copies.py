"""Edited copies of texts, whose losses stand for how hard a text is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

COPY_COUNT = 20
"""Copies of each text."""
REPLACED_SHARE = 0.1
"""Share of a text's tokens that a copy replaces, at least one."""


def neighbor_copies(
    x: Int[np.ndarray, "records tokens"],
    mask: Bool[np.ndarray, "records tokens"],
    law: Float[np.ndarray, "vocabulary"],
    seed: int = 0,
) -> Int[np.ndarray, "copies records tokens"]:
    """Copies of each text with a tenth of its tokens, at least one, replaced by draws from a law of single tokens.

    Draws need no other model, and are the same for all models of a fleet.

    Args:
        x: token numbers.
        mask: where texts have tokens.
        law: probability of each token among reference records, on which no model was trained.
        seed: public.

    Raises:
        ValueError: if the law is none.
    """
    if not (law.min() >= 0 and np.isclose(law.sum(), 1)):
        raise ValueError(
            f"law: expected probabilities that sum to 1, not to {law.sum():g}; divide counts of tokens by their sum"
        )
    rng = np.random.default_rng(seed)
    count = np.maximum(1, np.round(REPLACED_SHARE * mask.sum(axis=1)).astype(int))
    copies = np.repeat(x[None], COPY_COUNT, axis=0)
    for copy in copies:
        place = np.argsort(np.argsort(np.where(mask, rng.random(x.shape), np.inf), axis=1), axis=1)
        replaced = place < count[:, None]
        copy[replaced] = rng.choice(len(law), size=int(replaced.sum()), p=law)
    return copies
