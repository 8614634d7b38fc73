"""Linear layers of several models side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palisade.targets.stacks.parameters import side_by_side


class StackedLinear(nn.Module):
    """K linear layers side by side, one batched product for all of them.

    The weight is kept transposed, (models, inputs, outputs): batched products and their gradients then need no copies.
    Other shapes: bias (models, outputs); input (models, batch, ..., inputs).
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        weight = side_by_side(layers, "weight")
        assert weight is not None
        self.weight = nn.Parameter(weight.detach().mT.contiguous(), requires_grad=weight.requires_grad)
        self.bias = side_by_side(layers, "bias")

    def forward(self, x: Float[Tensor, "models batch ... inputs"]) -> Float[Tensor, "models batch ... outputs"]:
        """Every model's linear map of its own batch, whatever dimensions lie between batch and inputs."""
        rows = x.flatten(1, -2)
        y = rows @ self.weight if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight)
        return y if x.ndim == 3 else y.view(*x.shape[:-1], y.shape[-1])
