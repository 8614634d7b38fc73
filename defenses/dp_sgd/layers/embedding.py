"""Per-record gradients of embeddings, single and stacked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.tape import Gradients, Tape, learning, squared_norms
from palisade.targets.stacks import StackedEmbedding


def embedding_gradients(layer: nn.Embedding | StackedEmbedding, tape: Tape) -> Gradients:
    """Only the rows that a record looked up are materialized: one per record and different token.

    The squared norm, the sum of ⟨δ_s, δ_t⟩ over all places s, t of the same token, then needs no pairs of places.
    """
    weight, axes = learning(layer.weight), 2 if isinstance(layer, StackedEmbedding) else 1
    assert weight is not None
    vocabulary, width = weight.shape[-2:]
    models_and_batch = tape[1][0].shape[:axes]
    batch, records = models_and_batch[-1], models_and_batch.numel()
    first = vocabulary * torch.arange(records, device=tape[0][0].device).unsqueeze(1)
    places = torch.cat([(tokens.reshape(records, tokens.shape[axes:].numel()) + first).flatten() for tokens in tape[0]])
    deltas = torch.cat([delta.reshape(-1, width) for delta in tape[1]])
    looked_up, row_of_place = _different(places)
    rows = deltas.new_zeros(len(looked_up), width).index_add_(0, row_of_place, deltas)
    record, token = looked_up // vocabulary, looked_up % vocabulary
    if layer.padding_idx is not None:
        rows = rows.masked_fill((token == layer.padding_idx).unsqueeze(1), 0)
    squares = rows.new_zeros(records).index_add_(0, record, squared_norms(rows))

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        weighted = rows * weights.flatten()[record].unsqueeze(1)
        total = weighted.new_zeros(weight.shape).view(-1, width)
        return {weight: total.index_add_(0, record // batch * vocabulary + token, weighted).view_as(weight)}

    return squares.view(models_and_batch), sums


def _different(places: Int64[Tensor, " places"]) -> tuple[Int64[Tensor, " different"], Int64[Tensor, " places"]]:
    """Different places in order, and for each place which of them it is.

    How many there are, the host would have to wait for: on a device there are as many as places, the last ones 0.
    """
    if places.device.type == "cpu":
        return torch.unique(places, return_inverse=True)
    ordered, order = places.sort()
    number = F.pad((ordered[1:] != ordered[:-1]).cumsum(0), (1, 0))
    return torch.zeros_like(places).scatter_(0, number, ordered), torch.empty_like(order).scatter_(0, order, number)
