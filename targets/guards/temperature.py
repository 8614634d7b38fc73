"""Temperature: probabilities that are flatter, or steeper, than the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from palisade.targets.guards.guard import Guard, Query, is_number
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

    temperature: float

    name = "temperature"

    def __post_init__(self) -> None:
        if not is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise ValueError(f"guard.temperature={self.temperature} must be above 0 and finite; use guard=none for 1")

    @property
    def strength(self) -> float:
        """The temperature T."""
        return self.temperature

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Probabilities softmax(z / T)."""
        return probabilities(query.logits, self.temperature)
