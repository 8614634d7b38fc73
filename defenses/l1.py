"""L1 regularization: weights that a few records need stay at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pytorch_lightning import Callback

from palisade.data.split import Split
from palisade.defenses.parts.losses import Penalty
from palisade.fields import Positive, remedy
from palisade.targets.fleet import Defense, Fitter


@dataclass(frozen=True, kw_only=True)
class L1(Defense):
    """Adds λ·‖θ‖₁ to the loss, by its subgradient λ·sign(θ), which is 0 where a weight is 0.

    Like L2 it leaves less room to memorize in, and guarantees nothing (Tibshirani 1996, section 2).

    Args:
        weight: λ > 0.

    Raises:
        ValueError: if λ is not positive.
    """

    weight: Annotated[Positive, remedy("choose e.g. 0.0001, or defense=none for 0")]

    @property
    def strength(self) -> float:
        """The weight λ of the penalty."""
        return self.weight

    def callbacks(self, fitter: Fitter, split: Split) -> list[Callback]:
        """The penalty, whose gradient is λ·sign(θ)."""
        return [Penalty(self.weight, slope=torch._foreach_sign)]
