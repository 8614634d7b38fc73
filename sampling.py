"""Laws by which language models draw the next token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from palisade.fields import CheckedFields, Count, Positive


@dataclass(frozen=True, kw_only=True)
class SamplingLaw(CheckedFields):
    """A law q by which the next token is drawn.

    Args:
        temperature: of the softmax, above 0.
        top_k: how many of the likeliest tokens may be drawn; None: all.

    Raises:
        ValueError: if a setting is out of range.
    """

    temperature: Positive = 1.0
    top_k: Count | None = None

    @property
    def name(self) -> str:
        """Such as `T=1` or `T=0.8,top-40`."""
        return f"T={self.temperature:g}" + ("" if self.top_k is None else f",top-{self.top_k}")

    def log_law(self, logits: Float[np.ndarray, "... vocabulary"]) -> Float[np.ndarray, "... vocabulary"]:
        """log q of every token, −inf for one that is never drawn; of tokens that tie at the k-th place, all may be."""
        scaled = logits.astype(np.float64) / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = np.partition(scaled, -self.top_k, axis=-1)[..., [-self.top_k]]
            scaled = np.where(scaled >= least, scaled, -np.inf)
        log_q: np.ndarray = log_softmax(scaled, axis=-1)
        return log_q

    def log_probabilities(
        self, logits: Float[np.ndarray, "... vocabulary"], x: Int[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        """log q(x_t | x_<t) of the tokens that follow.

        Whoever holds logits computes this beside ℓ_t in one pass, a block at a time.

        Args:
            logits: of the model at every position.
            x: the tokens that follow.
        """
        log_q: np.ndarray = np.take_along_axis(self.log_law(logits), x[..., None], axis=-1)[..., 0]
        return log_q
