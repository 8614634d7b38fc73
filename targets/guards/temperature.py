"""Temperature: probabilities that are flatter, or steeper, than the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float32

from palisade.fields import Positive, remedy
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.probabilities import probabilities


@dataclass(frozen=True, kw_only=True)
class Temperature(Guard):
    """softmax(z / T) instead of softmax(z).

    It moves every answer by a fixed rule that can be undone up to rounding: members stay the surer ones (Shokri et
    al. 2017, section VIII).

    Args:
        temperature: T > 0, above 1 to flatten.

    Raises:
        ValueError: if T is no such number.
    """

    temperature: Annotated[Positive, remedy("choose e.g. 5, or guard=none for 1")]

    name = "temperature"

    @property
    def strength(self) -> float:
        """The temperature T."""
        return self.temperature

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Probabilities softmax(z / T)."""
        return probabilities(query.logits, self.temperature)
