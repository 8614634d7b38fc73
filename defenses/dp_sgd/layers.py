"""Squared norms and weighted sums of per-record gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from targets.stacks import StackedLinear

Tape = tuple[list[Tensor], list[Tensor]]
"""A layer's inputs and output gradients, one of each per call in the forward pass."""
Sums = Callable[[Tensor], dict[nn.Parameter, Tensor]]
"""From one weight per record to the weighted sum of the records' gradients."""
Gradients = tuple[Float[Tensor, "*models batch"], Sums]
"""The squared norm of every record's gradient, and the way to sum them."""

GRAD_SAMPLERS: Mapping[type[nn.Module], Any] = GradSampleModule.GRAD_SAMPLERS


def gradients(layer: nn.Module, stacked: bool) -> Callable[[nn.Module, Tape], Gradients] | None:
    """How the per-record gradients of a layer are found, or None if no way is known.

    A subclass counts as its base as long as it inherits `forward`; otherwise its gradient is unknown.
    """
    for base in type(layer).__mro__:
        if type(layer).forward is not getattr(base, "forward", None):
            return None
        if stacked:
            if base is StackedLinear:
                return stacked_dense
        elif base is nn.Linear:
            return dense
        elif base in GRAD_SAMPLERS:
            return sampled
    return None


def dense(layer: nn.Module, tape: Tape) -> Gradients:
    """A linear layer; per-record gradients are not materialized unless that is cheaper.

    With one position, ‖g‖² = ‖δ‖²(‖a‖² + 1); with T of them ⟨a aᵀ, δ δᵀ⟩ (ghost norm; Li et al. 2022, section 4),
    and the weighted sum of gradients is one product (book-keeping; Bu et al. 2023).
    """
    return _dense(layer, *(_positions(calls, records=1) for calls in tape))


def stacked_dense(layer: nn.Module, tape: Tape) -> Gradients:
    """The same for every model of a `StackedLinear`."""
    return _dense(layer, *(_positions(calls, records=2) for calls in tape))


def sampled(layer: nn.Module, tape: Tape) -> Gradients:
    """Any other layer: Opacus's own grad sampler materializes the per-record gradients."""
    samples: dict[nn.Parameter, Tensor] = {}
    for activation, delta in zip(*tape, strict=True):
        for parameter, sample in GRAD_SAMPLERS[_base(layer)](layer, [activation], delta).items():
            samples[parameter] = samples[parameter] + sample if parameter in samples else sample
    squares = torch.stack([sample.flatten(1).square().sum(1) for sample in samples.values()]).sum(0)

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        return {parameter: torch.einsum("b,b...->...", weights, sample) for parameter, sample in samples.items()}

    return squares, sums


def _base(layer: nn.Module) -> type[nn.Module]:
    return next(base for base in type(layer).__mro__ if base in GRAD_SAMPLERS)


def _positions(calls: list[Tensor], records: int) -> Float[Tensor, "*models batch positions width"]:
    """All calls and sequence positions of a record on one axis: a layer called twice adds up like a longer sequence."""
    joined = [call.reshape(*call.shape[:records], call.shape[records:-1].numel(), call.shape[-1]) for call in calls]
    return joined[0] if len(joined) == 1 else torch.cat(joined, dim=records)


def _dense(
    layer: nn.Module,
    activation: Float[Tensor, "*models batch positions inputs"],
    delta: Float[Tensor, "*models batch positions outputs"],
) -> Gradients:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    learns_bias = isinstance(bias, nn.Parameter) and bias.requires_grad
    positions, inputs, outputs = activation.shape[-2], activation.shape[-1], delta.shape[-1]
    squares = delta.new_zeros(delta.shape[:-2])
    if weight.requires_grad:
        if positions == 1:
            squares = _square(activation[..., 0, :]) * _square(delta[..., 0, :])
        elif 2 * positions**2 < inputs * outputs:
            # Rounding may take a tiny norm below zero.
            squares = ((activation @ activation.mT) * (delta @ delta.mT)).sum((-2, -1)).clamp(min=0)
        else:
            squares = _square((delta.mT @ activation).flatten(-2))
    if learns_bias:
        squares = squares + _square(delta[..., 0, :] if positions == 1 else delta.sum(-2))

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        per_position = weights.unsqueeze(-1).expand(*weights.shape, positions).flatten(-2).unsqueeze(-1)
        inner, outer = activation.flatten(-3, -2), delta.flatten(-3, -2)
        result: dict[nn.Parameter, Tensor] = {}
        if learns_bias:
            result[bias] = (outer.mT @ per_position).squeeze(-1)  # type: ignore[index]
        if weight.requires_grad:
            if inputs < outputs:  # the weights go onto the narrower factor
                inner = inner * per_position
            else:
                outer = outer * per_position
            result[weight] = inner.mT @ outer if isinstance(layer, StackedLinear) else outer.mT @ inner
        return result

    return squares, sums


def _square(vectors: Float[Tensor, "*records width"]) -> Float[Tensor, "*records"]:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.square()
