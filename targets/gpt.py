"""A small language model, made of layers that DP-SGD can clip record by record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from palisade.targets.transformer import Block, check_sizes, positions_of

NOT_DOCUMENTS = "network=gpt: expected documents, for a language model; use data=documents or ag_news"
INITIAL_DEVIATION = 0.02  # of embeddings, and of the head: the first answers are nearly those of a coin (GPT-2)


class GPT(nn.Module):
    """Embeddings of tokens and places, blocks of causal attention, and a class at every position: the next token.

    The architecture is that of GPT-2 (Radford et al. 2019, section 2.3) with a head of its own, as ties would have no
    stacked form. No layer mixes records and none is random, so that the network may be trained with DP-SGD. A position
    sees those before it alone: padding behind a document changes none of its answers.

    Args:
        shape: (length,) of one document: at each position the token before.
        classes: V, size of the vocabulary.
        width: of every position, a multiple of `heads`.
        depth: number of blocks; 0 leaves what each token says of the next.
        heads: attentions side by side in every block.

    Raises:
        ValueError: if records are no documents, or a number is out of range.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        if len(shape) != 1 or classes < 2:
            raise ValueError(NOT_DOCUMENTS)
        check_sizes(width=width, depth=depth, heads=heads)
        super().__init__()
        self.tokens, self.places = nn.Embedding(classes, width), nn.Embedding(shape[0], width)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        for layer in (self.tokens, self.places, self.head):
            nn.init.normal_(layer.weight, std=INITIAL_DEVIATION)

    def forward(self, tokens: Real[Tensor, "*models batch positions"]) -> Float[Tensor, "*models batch positions V"]:
        """Logits of the next token at every position.

        Raises:
            ValueError: if inputs are no whole numbers.
        """
        if tokens.is_floating_point():
            raise ValueError(NOT_DOCUMENTS)
        length = tokens.shape[-1]
        seen = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        x = self.tokens(tokens) + self.places(positions_of(tokens))
        for block in self.blocks:
            x = block(x, seen)
        return self.head(self.norm(x))
