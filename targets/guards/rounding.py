"""Rounding: probabilities to a few decimals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from palisade.fields import CountFromZero
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.probabilities import probabilities


@dataclass(frozen=True, kw_only=True)
class Rounding(Guard):
    """Probabilities to so many decimals: an answer need not sum to 1, and the largest may be one of several.

    It hides only what is below the last digit (Shokri et al. 2017, section VIII): a probability of 0.99 and one of
    0.6 still look different.

    Args:
        decimals: at least 0.

    Raises:
        ValueError: if it is no such number.
    """

    decimals: Annotated[CountFromZero, Field(examples=[2])]

    name = "rounding"
    keeps_label = False

    @property
    def strength(self) -> float:
        """Number of decimals."""
        return self.decimals

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Rounded probabilities."""
        return probabilities(query.logits).round(self.decimals)
