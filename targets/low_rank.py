"""Low-rank adaptation: a network stays as it is, and small products beside its dense layers learn."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from palisade.fields import CheckedFields, Count

SCALE_NUMERATOR = 16
"""α of the paper: what a product is scaled by, times the rank, so that ranks compare at one learning rate."""
HEAD_NAMES = ("head", "lm_head", "embed_out")
"""Output layers, which stay as they are: they are as large as the vocabulary, and often tied to the embeddings."""


@dataclass(frozen=True, kw_only=True)
class LowRankSettings(CheckedFields):
    """Settings of `network.lora`.

    Args:
        rank: r ≥ 1 of the learned products; None trains the whole network.
    """

    rank: Count | None = None


class LowRank(nn.Module):
    """A frozen dense layer plus a learned product of rank r: W·x + (α/r)·B·A·x, B = 0 at first.

    Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. Both factors are dense layers of
    their own, so that DP-SGD clips them and stacks hold them as they do others.

    Args:
        layer: the dense layer.
        rank: r.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer, self.scale = layer, SCALE_NUMERATOR / rank
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The layer's output, moved by what was learned."""
        y: Tensor = self.layer(x) + self.scale * self.up(self.down(x))
        return y


def adapt(network: nn.Module, rank: int) -> nn.Module:
    """The network, frozen, with low-rank products beside all dense layers but the output layer.

    Raises:
        ValueError: if it has no dense layer.
    """
    network.requires_grad_(False)
    places = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in HEAD_NAMES
    ]
    if not places:
        raise ValueError(f"network.lora.rank={rank}: expected a network with dense layers inside; set it to null")
    for name, layer in places:
        network.set_submodule(name, LowRank(layer, rank))
    return network


def is_adapted(network: nn.Module) -> bool:
    """True if products of low rank are what learns."""
    return any(isinstance(layer, LowRank) for layer in network.modules())
