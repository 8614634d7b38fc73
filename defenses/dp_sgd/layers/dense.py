"""Per-record gradients of linear layers, single and stacked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.tape import (
    Gradients,
    Tape,
    ghost_norms,
    ghost_pays,
    joined_positions,
    learning,
    squared_norms,
    weighted_sum,
)
from palisade.targets.stacks import StackedLinear


def dense_gradients(layer: nn.Linear | StackedLinear, tape: Tape) -> Gradients:
    """Per-record gradients are not materialized unless that is cheaper.

    With one position, ‖g‖² = ‖δ‖²(‖a‖² + 1); with few of them the ghost norm. The weighted sum of gradients is one
    product (book-keeping; Bu et al. 2023).
    """
    weight, bias, stacked = learning(layer.weight), learning(layer.bias), isinstance(layer, StackedLinear)
    activation, delta = (joined_positions(calls, records=2 if stacked else 1) for calls in tape)
    positions, inputs, outputs = activation.shape[-2], activation.shape[-1], delta.shape[-1]
    summed = delta[..., 0, :] if positions == 1 else delta.sum(-2)
    of_bias = squared_norms(summed)
    sample_gradients: Tensor | None = None
    if weight is None:
        squares = torch.zeros_like(of_bias)
    elif positions == 1:
        squares = squared_norms(activation[..., 0, :]) * of_bias
    elif ghost_pays(positions, inputs * outputs):
        squares = ghost_norms(activation, delta)
    else:
        samples = activation.mT @ delta if stacked else delta.mT @ activation
        squares = squared_norms(samples.flatten(-2))
        if inputs * outputs <= positions * (inputs + outputs):  # no more than the tape itself
            sample_gradients = samples
    if bias is not None:
        squares = squares + of_bias

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        result: dict[nn.Parameter, Tensor] = {}
        if bias is not None:
            result[bias] = (summed.mT @ weights.unsqueeze(-1)).squeeze(-1)
        if weight is not None and sample_gradients is not None:
            result[weight] = weighted_sum(weights, sample_gradients).view_as(weight)
        elif weight is not None:
            inner, outer = _weighted_factors(activation, delta, weights)
            result[weight] = inner.mT @ outer if stacked else outer.mT @ inner
        return result

    return squares, sums


def _weighted_factors(activation: Tensor, delta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients of all records and positions, one row each, with the records' weights on one."""
    positions = activation.shape[-2]
    inner, outer = activation.flatten(-3, -2), delta.flatten(-3, -2)
    per_position = weights.unsqueeze(-1).expand(*weights.shape, positions).flatten(-2).unsqueeze(-1)
    if inner.shape[-1] < outer.shape[-1]:  # the weights go onto the narrower factor
        return inner * per_position, outer
    return inner, outer * per_position
