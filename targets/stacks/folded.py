"""Layers without parameters that expect the batch dimension first."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Shaped
from torch import Tensor, nn


class Folded(nn.Module):
    """A layer without parameters that sees the records of all models as one batch."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layer = layers[0]

    def forward(self, x: Shaped[Tensor, "models batch ..."]) -> Shaped[Tensor, "models batch ..."]:
        """The layer's output for all models' records at once, with the model axis put back."""
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
