"""Per-record gradients of an embedding and an output layer that share their weight."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.dense import dense_gradients
from palisade.defenses.dp_sgd.layers.embedding import embedding_gradients
from palisade.defenses.dp_sgd.layers.tape import GRAM_ROUNDING_ULPS, Gradients, Tape, joined_positions, learning


def tied_gradients(embedding: nn.Embedding, linear: nn.Linear, embedding_tape: Tape, linear_tape: Tape) -> Gradients:
    """The joint gradients of a language model's tied embeddings, of single models alone, not of stacks.

    The gradient of the shared weight is the sum of what each layer contributes, g = g_E + g_H, so that
    ‖g‖² = ‖g_E‖² + ‖g_H‖² + 2⟨g_E, g_H⟩. Clipping the parts by their own norms would let a record move the weight by
    more than C where they agree.

    Args:
        embedding: looks rows of the weight up; places of its padding index have no gradient.
        linear: multiplies with the weight; its bias, if it has one, has a gradient as ever.
        embedding_tape: tokens (batch, ...) and output gradients (batch, ..., features) of every call.
        linear_tape: inputs (batch, ..., features) and output gradients (batch, ..., vocabulary) of every call.

    Returns:
        Squared norms (batch,) of weight and bias together, and sums with one entry for each of the two.
    """
    weight = learning(embedding.weight)
    assert weight is not None and weight is linear.weight
    squares_embedding, sums_embedding = embedding_gradients(embedding, embedding_tape)
    squares_linear, sums_linear = dense_gradients(linear, linear_tape)
    tokens = joined_positions([call.unsqueeze(-1) for call in embedding_tape[0]], records=1).squeeze(-1).long()
    outer_embedding = joined_positions(embedding_tape[1], records=1)
    if embedding.padding_idx is not None:
        outer_embedding = outer_embedding.masked_fill((tokens == embedding.padding_idx).unsqueeze(-1), 0)
    inner, outer = (joined_positions(calls, records=1) for calls in linear_tape)
    squares = squares_embedding + squares_linear + 2 * _product(tokens, outer_embedding, inner, outer)
    # Where the parts cancel, rounding hides a norm that clipping must see: its bound is added, not left out.
    reach = outer_embedding.norm(dim=-1).sum(-1) + (inner.norm(dim=-1) * outer.norm(dim=-1)).sum(-1)
    squares = squares.clamp(min=0) + GRAM_ROUNDING_ULPS * torch.finfo(squares.dtype).eps * reach.square()

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        result = sums_linear(weights)
        result[weight] = sums_embedding(weights)[weight].add_(result[weight])
        return result

    return squares, sums


def _product(
    tokens: Tensor,
    outer_embedding: Float[Tensor, "batch places features"],
    inner: Float[Tensor, "batch positions features"],
    outer: Float[Tensor, "batch positions vocabulary"],
) -> Float[Tensor, " batch"]:
    """⟨g_E, g_H⟩ = Σ_{t,s} δ^H_s[x_t] · ⟨δ^E_t, h_s⟩ for tokens x, without either gradient."""
    of_token = outer.gather(-1, tokens.unsqueeze(1).expand(-1, outer.shape[1], -1))  # (batch, positions, places)
    return (of_token * (inner @ outer_embedding.mT)).sum((-2, -1))
