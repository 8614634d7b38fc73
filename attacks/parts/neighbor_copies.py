"""Edited copies of texts, whose losses stand for how hard a text is."""

from __future__ import annotations

import zlib

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

    Draws need no other model, and are the same for all models of a fleet. They follow from the text itself: neither
    padding nor the company of other texts plays a part.

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
    reached = np.cumsum(law)
    reached /= reached[-1]
    copies = np.repeat(x[None], COPY_COUNT, axis=0)
    for record, length in enumerate(mask.sum(axis=1)):
        own = x[record, :length].astype(np.int64)
        rng = np.random.default_rng([seed, zlib.crc32(own.tobytes())])
        count = max(1, round(REPLACED_SHARE * length))
        places = rng.random((COPY_COUNT, length)).argsort(axis=1)[:, :count]
        drawn = np.searchsorted(reached, rng.random((COPY_COUNT, count)), side="right")
        np.put_along_axis(copies[:, record], places, drawn, axis=1)
    return copies
