"""Exposure of secrets of digits: how far up a model ranks the right one among all that there could be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

NextDigit = Callable[[Int[np.ndarray, "prefixes digits"]], Float[np.ndarray, "prefixes 10"]]
"""Log-probabilities of the ten digits after each beginning of a code, in the template that stands before it."""


def log_probabilities_of_codes(next_digit: NextDigit, digits: int) -> Float[np.ndarray, "codes"]:
    """log p of all 10^d codes, by the tree of their beginnings: (10^d − 1)/9 of them are asked about, not 10^d codes.

    Args:
        next_digit: as a model answers; digits must be tokens of their own.
        digits: d, at least 1.

    Returns:
        In the order of the codes' numbers.

    Raises:
        ValueError: if `digits` is below 1.
    """
    if digits < 1:
        raise ValueError(f"digits={digits}: expected an integer >= 1; choose e.g. 3")
    log_p, beginnings = np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for _ in range(digits):
        log_p = (log_p[:, None] + next_digit(beginnings)).ravel()
        following = np.tile(np.arange(10), len(beginnings))[:, None]
        beginnings = np.concatenate([np.repeat(beginnings, 10, axis=0), following], axis=1)
    return log_p


def exposure_of_secrets(
    log_p: Float[np.ndarray, "*models codes"], secrets: Int[np.ndarray, "secrets"]
) -> Float[np.ndarray, "*models secrets"]:
    """log2 |R| − log2 rank of each secret among all codes R (Carlini et al. 2019, "The Secret Sharer", section 4.3).

    Ties count half, so that a model to which all codes are alike exposes nobody by the order of their numbers. The
    most is log2 |R|; of a secret that no model has seen, the mean is about log2 e = 1.44.

    Args:
        log_p: of all codes, higher = more likely.
        secrets: numbers of the codes in question.
    """
    ascending, own = np.sort(log_p, axis=-1), log_p[..., secrets]
    flat, values = ascending.reshape(-1, ascending.shape[-1]), own.reshape(-1, len(secrets))
    below, up_to = (
        np.stack([np.searchsorted(row, value, side=side) for row, value in zip(flat, values, strict=True)])
        for side in ("left", "right")
    )
    codes = log_p.shape[-1]
    rank = codes - up_to + (up_to - below + 1) / 2
    exposure: np.ndarray = np.log2(codes) - np.log2(rank)
    return exposure.reshape(own.shape)
