"""Convex-concave loss: the fitted records' losses are spread instead of drawn together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.fields import remedy
from palisade.targets.fleet import Defense


@dataclass(frozen=True, kw_only=True)
class ConvexConcave(Defense):
    """Trains on α·CE − (1 − α)·exp(p), p = exp(−CE) being the true class's probability (Liu et al. 2024, section 3).

    A convex loss draws the losses of all members down to the same small value, which gives them away. The concave
    exponential term pulls the harder of them less and so widens their distribution into that of other records. Whoever
    has shadow models knows how far a record's loss falls all the same, which LiRA uses.

    Args:
        alpha: α, the weight of cross-entropy, at least 0 and below 1; a smaller one protects more.

    Raises:
        ValueError: if α is out of range.
    """

    attacks = ("lira",)
    alpha: Annotated[float, Field(ge=0, lt=1), remedy("choose e.g. 0.1, or defense=none for 1")]

    @property
    def strength(self) -> float:
        """The share α of the cross-entropy in the loss."""
        return self.alpha

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """α·CE − (1 − α)·exp(exp(−CE)) of every record."""
        losses = super().loss(logits, batch, epoch)
        return self.alpha * losses - (1 - self.alpha) * losses.neg().exp().exp()
