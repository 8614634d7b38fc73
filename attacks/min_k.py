"""Min-K%: a text that was never trained on holds a few words that the model did not expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float
from pydantic import Field

from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.token_attack import TokenAttack, mean_of_smallest
from palisade.attacks.parts.tokens import TokenAnswers

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class MinK(TokenAttack):
    """Score: mean of the smallest ℓ_t (Shi et al. 2024, "Detecting Pretraining Data from Large Language Models").

    Args:
        share: of a text's tokens that count, in (0, 1]; at least one does.

    Raises:
        ValueError: if `share` is out of range.
    """

    share: Share = 0.2

    name = "min_k"
    idea = "Looks only at the words that the model expected least; in a text it has seen, none is unlikely."
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities",))

    def _of_texts(self, tokens: TokenAnswers) -> Float[np.ndarray, "models block"]:
        return mean_of_smallest(tokens.log_probabilities.astype(np.float64), tokens, self.share)
