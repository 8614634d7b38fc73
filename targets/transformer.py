"""A small transformer that classifies texts, made of layers that DP-SGD can clip record by record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Real
from torch import Tensor, nn

from palisade.data.tokens import PADDING_TOKEN

NOT_WORDS = (
    "network=transformer: expected records of words, not numbers; use cnn for images, mlp for tables, gpt for documents"
)
INITIAL_DEVIATION = 0.1  # of the embeddings: small, so that what is learnt soon outweighs chance


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) from two dense layers.

    `nn.MultiheadAttention` bypasses its projections' forward, so that DP-SGD could not clip their gradients.

    Args:
        width: of every position, a multiple of `heads`.
        heads: how many attentions run side by side.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "*models batch positions width"], seen: Bool[Tensor, "... queries keys"]
    ) -> Float[Tensor, "*models batch positions width"]:
        """Mixes the positions of each text; each attends to those alone that are `seen` from it."""
        by_head = self.inputs(x).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2)
        queries, keys, values = by_head.unbind(-3)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        return self.outputs(mixed.transpose(-3, -2).flatten(-2))


class Block(nn.Module):
    """Attention and a dense network, each behind a layer norm and added to what came in."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width=width, heads=heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Float[Tensor, "*models batch positions width"], seen: Bool[Tensor, "... queries keys"]
    ) -> Float[Tensor, "*models batch positions width"]:
        """Each position after attending to the positions that may be seen, and after the dense network."""
        x = x + self.attention(self.attention_norm(x), seen)
        return x + self.mlp(self.mlp_norm(x))


def check_sizes(*, width: int, depth: int, heads: int) -> None:
    """Raises ValueError for sizes of a network of blocks that are out of range or do not go together."""
    for name, value, least, most in (("width", width, 1, 2**16), ("depth", depth, 0, 1000), ("heads", heads, 1, width)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(
                f"network.{name}={value}: expected an integer >= {least} and <= {most}; choose e.g. {max(least, 1)}"
            )
    if width % heads:
        raise ValueError(
            f"network.width={width}: expected a multiple of heads={heads}; choose {heads * (width // heads + 1)}"
        )


def positions_of(tokens: Real[Tensor, "*batch positions"]) -> Int64[Tensor, "*batch positions"]:
    """The place of each token in its text, one for every text, so that DP-SGD sees whose look-up it is."""
    return torch.arange(tokens.shape[-1], device=tokens.device).expand(tokens.shape)


class Transformer(nn.Module):
    """Embeddings of words and places, blocks of attention, the mean over a text's words, one dense layer.

    No layer mixes records and none is random, so that the network may be trained with DP-SGD; padding is never looked
    at, so that a text's output is its own, whatever it was batched with.

    Args:
        shape: (length,) of one record: the numbers of its words, 0 for padding.
        classes: number of logits.
        buckets: how many numbers stand for words (`Tokens`); None if the data are no texts.
        width: of every position, a multiple of `heads`.
        depth: number of blocks; 0 leaves a bag of words.
        heads: attentions side by side in every block.

    Raises:
        ValueError: if the data are no words, or a number is out of range.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        classes: int,
        buckets: int | None,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        if buckets is None or len(shape) != 1:
            raise ValueError(NOT_WORDS)
        check_sizes(width=width, depth=depth, heads=heads)
        super().__init__()
        self.words = nn.Embedding(buckets, width, padding_idx=PADDING_TOKEN)
        self.places = nn.Embedding(shape[0], width)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            for embedding in (self.words, self.places):
                embedding.weight.mul_(INITIAL_DEVIATION)

    def forward(self, words: Real[Tensor, "*models batch positions"]) -> Float[Tensor, "*models batch classes"]:
        """Logits of texts that are given by the numbers of their words, padded.

        Raises:
            ValueError: if inputs are no whole numbers, or one is not below the network's buckets.
        """
        if words.is_floating_point():
            raise ValueError(NOT_WORDS)
        real = words != PADDING_TOKEN
        # A text without a word attends to its padding, as not every softmax over nothing is 0; the mean leaves it out.
        seen = (real | ~real.any(-1, keepdim=True))[..., None, None, :]
        try:
            x = self.words(words) + self.places(positions_of(words))
        except IndexError:
            buckets = self.words.weight.shape[-2]
            raise ValueError(
                f"network.buckets={buckets}: expected data.buckets, to which it defaults; leave it out"
            ) from None
        for block in self.blocks:
            x = block(x, seen)
        total = self.norm(x).where(real.unsqueeze(-1), 0).sum(-2)
        return self.head(total / real.sum(-1, keepdim=True).clamp(min=1))
