"""Per-record gradients of an embedding and an output layer that share their weight."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palisade.data.placement import in_double
from palisade.defenses.dp_sgd.layers.dense import dense_gradients
from palisade.defenses.dp_sgd.layers.embedding import embedding_gradients
from palisade.defenses.dp_sgd.layers.tape import GRAM_ROUNDING_ULPS, Gradients, Tape, joined_positions, learning

MAX_DOUBLED_ELEMENTS = 2**24
"""Output gradients of the output layer that are held in double precision together."""


def tied_gradients(embedding: nn.Embedding, linear: nn.Linear, embedding_tape: Tape, linear_tape: Tape) -> Gradients:
    """The joint gradients of a language model's tied embeddings, of single models alone, not of stacks.

    The gradient of the shared weight is the sum of what each layer contributes, g = g_E + g_H, so that
    ‖g‖² = ‖g_E‖² + ‖g_H‖² + 2⟨g_E, g_H⟩. Clipping the parts by their own norms would let a record move the weight by
    more than C where they agree; where they cancel, single precision would hide what is left.

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
    outer = linear_tape[1][0]
    at_once = max(1, MAX_DOUBLED_ELEMENTS // max(1, sum(delta[:1].numel() for delta in linear_tape[1])))
    parts = [slice(start, start + at_once) for start in range(0, len(outer), at_once)] or [slice(0)]
    squares = [
        _squares(embedding, linear, _doubled(embedding_tape, part), _doubled(linear_tape, part)) for part in parts
    ]
    _, sums_embedding = embedding_gradients(embedding, embedding_tape)
    _, sums_linear = dense_gradients(linear, linear_tape)

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        result = sums_linear(weights)
        result[weight] = sums_embedding(weights)[weight].add_(result[weight])
        return result

    return torch.cat(squares).to(outer), sums


def _doubled(tape: Tape, records: slice) -> Tape:
    """Some records of a tape in double precision, on the CPU if their device has none; tokens stay whole numbers."""
    activations, deltas = ([call[records] for call in calls] for calls in tape)
    deltas = [in_double(call) for call in deltas]
    return [in_double(call) if call.is_floating_point() else call.to(deltas[0].device) for call in activations], deltas


def _squares(
    embedding: nn.Embedding, linear: nn.Linear, embedding_tape: Tape, linear_tape: Tape
) -> Float[Tensor, " batch"]:
    """Squared norms of tapes in double precision."""
    squares_embedding, _ = embedding_gradients(embedding, embedding_tape)
    squares_linear, _ = dense_gradients(linear, linear_tape)
    tokens = joined_positions([call.unsqueeze(-1) for call in embedding_tape[0]], records=1).squeeze(-1).long()
    outer_embedding = joined_positions(embedding_tape[1], records=1)
    if embedding.padding_idx is not None:
        outer_embedding = outer_embedding.masked_fill((tokens == embedding.padding_idx).unsqueeze(-1), 0)
    inner, outer = (joined_positions(calls, records=1) for calls in linear_tape)
    squares = squares_embedding + squares_linear + 2 * _product(tokens, outer_embedding, inner, outer)
    # Where the parts cancel, rounding hides a norm that clipping must see: its bound is added, not left out.
    reach = outer_embedding.norm(dim=-1).sum(-1) + (inner.norm(dim=-1) * outer.norm(dim=-1)).sum(-1)
    return squares.clamp(min=0) + GRAM_ROUNDING_ULPS * torch.finfo(squares.dtype).eps * reach.square()


def _product(
    tokens: Tensor,
    outer_embedding: Float[Tensor, "batch places features"],
    inner: Float[Tensor, "batch positions features"],
    outer: Float[Tensor, "batch positions vocabulary"],
) -> Float[Tensor, " batch"]:
    """⟨g_E, g_H⟩ = Σ_{t,s} δ^H_s[x_t] · ⟨δ^E_t, h_s⟩ for tokens x, without either gradient."""
    of_token = outer.gather(-1, tokens.unsqueeze(1).expand(-1, outer.shape[1], -1))  # (batch, positions, places)
    return (of_token * (inner @ outer_embedding.mT)).sum((-2, -1))
