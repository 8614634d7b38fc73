"""Extraction of texts from language models, by the probabilities of their tokens, without generating any."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from palisade.fields import CheckedFields, Count

SMALL_LOG_PROBABILITY = -30.0
"""Below this log p, −log(1 − p) is p to all digits of float64."""


@dataclass(frozen=True, kw_only=True)
class Span(CheckedFields):
    """A prefix that is given and the suffix that is asked for, in tokens from the start of a text.

    Args:
        prefix: tokens of the prompt, at least 1.
        suffix: tokens that must follow, at least 1.

    Raises:
        ValueError: if one is below 1.
    """

    prefix: Count
    suffix: Count

    @property
    def name(self) -> str:
        """Such as `8+16`."""
        return f"{self.prefix}+{self.suffix}"

    def fits(self, mask: Bool[np.ndarray, "records tokens"]) -> Bool[np.ndarray, "records"]:
        """Texts that are as long as that."""
        end = self.prefix + self.suffix
        return mask[:, end - 1] if end <= mask.shape[1] else np.zeros(len(mask), dtype=bool)


def extracted_greedily(
    greedy: Bool[np.ndarray, "models records tokens"], mask: Bool[np.ndarray, "records tokens"], span: Span
) -> Float[np.ndarray, "models records"]:
    """1 where greedy decoding after the prefix gives the suffix token by token, else 0; NaN for shorter texts.

    Every suffix token is the most likely one under teacher forcing: decoding then never leaves the text (Carlini et
    al. 2023, "Quantifying Memorization Across Neural Language Models", section 3.2).

    Args:
        greedy: the most likely token is x_t.
        mask: where texts have tokens.
        span: prefix and suffix.
    """
    inside = greedy[..., span.prefix : span.prefix + span.suffix].all(axis=-1)
    return np.where(span.fits(mask), inside.astype(np.float64), np.nan)


def suffix_log_probability(
    log_q: Float[np.ndarray, "models records tokens"], mask: Bool[np.ndarray, "records tokens"], span: Span
) -> Float[np.ndarray, "models records"]:
    """log p_z = Σ log q(x_t) over the suffix; NaN for shorter texts.

    Args:
        log_q: of a sampling scheme; −inf where a token is never drawn.
        mask: where texts have tokens.
        span: prefix and suffix.
    """
    total = log_q[..., span.prefix : span.prefix + span.suffix].sum(axis=-1, dtype=np.float64)
    return np.where(span.fits(mask), total, np.nan)


def extractable(
    log_p: Float[np.ndarray, "models records"], tries: int, probability: float
) -> Float[np.ndarray, "models records"]:
    """1 where so many samples hold the suffix with at least this probability, else 0; NaN stays.

    (n, p)-discoverable extraction (Hayes et al. 2025, "Measuring memorization in language models via probabilistic
    extraction"): 1 − (1 − p_z)^n ≥ p, compared as logarithms, since p_z may be 1e-40.

    Args:
        log_p: log p_z of the suffix, as `suffix_log_probability` gives it.
        tries: n, at least 1.
        probability: p, in (0, 1).

    Raises:
        ValueError: if one is out of range.
    """
    if tries < 1 or not 0 < probability < 1:
        raise ValueError(
            f"n={tries}, p={probability}: expected an integer >= 1 and a probability in (0, 1); choose e.g. 100 and 0.5"
        )
    reached = math.log(tries) + log_surprise(log_p) >= log_surprise(math.log(probability))
    return np.where(np.isnan(log_p), np.nan, reached.astype(np.float64))


def tries_needed(log_p: Float[np.ndarray, "models records"], probability: float) -> Float[np.ndarray, "models records"]:
    """Samples until one holds the suffix with this probability, at least 1; infinite where none ever does."""
    with np.errstate(over="ignore"):
        needed: np.ndarray = np.maximum(np.exp(log_surprise(math.log(probability)) - log_surprise(log_p)), 1.0)
    return needed


def log_surprise(log_p: Float[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"]:
    """log(−log(1 − p)) of log p: finite where p itself underflows."""
    log_p = np.asarray(log_p, dtype=np.float64)
    with np.errstate(divide="ignore"):
        exact: np.ndarray = np.log(-np.log1p(-np.exp(np.maximum(log_p, SMALL_LOG_PROBABILITY))))
    return np.where(log_p < SMALL_LOG_PROBABILITY, log_p, exact)


def sufficient_prefix(
    greedy: Bool[np.ndarray, "models records tokens"], mask: Bool[np.ndarray, "records tokens"], suffix: int
) -> Float[np.ndarray, "models records"]:
    """The fewest tokens, at least 1, after which greedy decoding gives the next `suffix` tokens; NaN where none do.

    Args:
        greedy: the most likely token is x_t.
        mask: where texts have tokens.
        suffix: tokens that must follow, at least 1.
    """
    right = greedy & mask
    if suffix + 1 > right.shape[-1]:
        return np.full(right.shape[:2], np.nan)
    reached = np.concatenate([np.zeros((*right.shape[:2], 1), dtype=int), right.cumsum(axis=-1)], axis=-1)
    complete = reached[..., 1 + suffix :] - reached[..., 1 : right.shape[-1] + 1 - suffix] == suffix
    return np.where(complete.any(axis=-1), 1.0 + complete.argmax(axis=-1), np.nan)
