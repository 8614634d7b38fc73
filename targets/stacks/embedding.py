"""Embeddings of several models side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from palisade.targets.stacks.parameters import side_by_side


class StackedEmbedding(nn.Module):
    """K embeddings side by side: one look-up in their tables, laid end to end.

    Weight (models, tokens, width); input (models, batch, ...). The row `padding_idx` is never learnt.
    """

    def __init__(self, layers: Sequence[nn.Embedding]) -> None:
        super().__init__()
        weight = side_by_side(layers, "weight")
        assert weight is not None
        self.weight, self.padding_idx = weight, layers[0].padding_idx

    def forward(self, x: Int[Tensor, "models batch ..."]) -> Float[Tensor, "models batch ... width"]:
        """Every model's vectors for its own batch of tokens; padding passes no gradient."""
        models, tokens, _ = self.weight.shape
        first = tokens * torch.arange(models, device=x.device)
        y = F.embedding(x + first.view(-1, *[1] * (x.ndim - 1)), self.weight.flatten(0, 1))
        if self.padding_idx is None:
            return y
        return y.where((x != self.padding_idx).unsqueeze(-1), y.detach())


def plain(layer: nn.Embedding) -> bool:
    """Test for a mere look-up: renormalizing or counting tokens would mix records, sparse gradients differ."""
    return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
