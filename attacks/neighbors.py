"""Neighbors: is the text more likely than copies of it in which some words are replaced?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack
from palisade.attacks.parts.tokens import TokenAnswers


@dataclass(frozen=True, kw_only=True)
class Neighbors(TokenAttack):
    """Score mean ℓ(x) − mean over edited copies (Mattern et al. 2023, "Membership Inference Attacks via Neighbourhood
    Comparison"). The copies stand for how hard the text is, in the place of another model.

    Args:
        statistic: `mean`, or `consistency`: −standard deviation over the copies. The latter was proposed as a sign of
            members; in practice it is reversed, as copies of a text that is known by heart differ most. It is here to
            be measured, not to be relied on.

    Raises:
        ValueError: if `statistic` is unknown.
    """

    statistic: Literal["mean", "consistency"] = "mean"

    idea = "Compares the text with copies in which some words are replaced; the words of a known text fit best."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities", "neighbors"), queries=None)

    @property
    def name(self) -> str:
        """`neighbors`, or `consistency` of their losses."""
        return "neighbors" if self.statistic == "mean" else self.statistic

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        assert tokens.neighbor_losses is not None
        losses = tokens.neighbor_losses.astype(np.float64)
        if self.statistic == "consistency":
            return np.asarray(-losses.std(axis=-1))
        return np.asarray(tokens.mean(tokens.log_probabilities) + losses.mean(axis=-1))
