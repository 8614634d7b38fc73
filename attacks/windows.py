"""Windows: in how many stretches of the text did training help?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack, difference
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.fields import Count

TIE_SHARE = 1e-6
"""Weight of the mean difference, which orders texts of which as many windows rose."""


@dataclass(frozen=True, kw_only=True)
class Windows(TokenAttack):
    """Score: share of the windows with ΣΔ > 0, Δ = ℓ − ℓ^base, the mean over window sizes (WBC, Chen et al. 2026).

    Signs bound what one rare word can do. Of a text, the sizes that fit into it count; of one shorter than the
    smallest, the whole of it.

    Args:
        smallest: tokens of the smallest window.
        largest: tokens of the largest window.
        sizes: how many sizes lie between, in geometric steps; those that round to the same count once.

    Raises:
        ValueError: if `largest` is below `smallest`, or a setting is not positive.
    """

    smallest: Count = 2
    largest: Count = 40
    sizes: Count = 10

    name = "windows"
    idea = "Counts the stretches of the text, short and long, that the model foretells better since it was trained."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities",), base=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest < self.smallest:
            raise ValueError(f"largest={self.largest}: expected at least smallest={self.smallest}; choose e.g. 40")

    @property
    def widths(self) -> Int[np.ndarray, "sizes"]:
        """Tokens of a window, ascending."""
        steps = np.geomspace(self.smallest, self.largest, self.sizes)
        return np.unique(np.round(steps).astype(int))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        gained, longest = difference(tokens), tokens.mask.shape[1]
        reached = np.concatenate([np.zeros((*gained.shape[:2], 1)), gained.cumsum(axis=-1)], axis=-1)
        shares, sizes = np.zeros(gained.shape[:2]), np.zeros(tokens.records)
        for place, size in enumerate(self.widths):
            for width in [size] if place else range(1, size + 1):
                fits = tokens.lengths >= width if width == size else tokens.lengths == width
                if width > longest or not fits.any():
                    continue
                inside = np.arange(longest - width + 1) + width <= tokens.lengths[:, None]
                rose = (reached[..., width:] - reached[..., : reached.shape[-1] - width] > 0) & inside
                shares += np.where(fits, rose.sum(axis=-1) / np.maximum(inside.sum(axis=-1), 1), 0.0)
                sizes += fits
        return shares / sizes + TIE_SHARE * np.arctan(tokens.mean(gained)) / np.pi
