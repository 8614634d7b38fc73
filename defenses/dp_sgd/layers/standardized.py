"""Per-record gradients of convolutions with weight standardization, single and stacked."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.convolution import (
    Calls,
    calls_of_stack,
    gradients_of_records,
    positions_of,
    summed_over_positions,
    unfolded_calls,
    weighted_gradient,
)
from palisade.defenses.dp_sgd.layers.tape import (
    Gradients,
    Tape,
    ghost_norms,
    ghost_pays,
    learning,
    squared_norms,
    weighted_sum,
)
from palisade.targets.stacks import StackedStandardizedConvolution
from palisade.targets.standardization import Standardized, StandardizedConv2d, standardized

Layer = StandardizedConv2d | StackedStandardizedConvolution


def standardized_gradients(layer: Layer, tape: Tape) -> Gradients:
    """The gradients of a convolution, carried over to the weight before standardization and to the gain.

    For a filter w = gain · u, u centered and of norm 1 before the gain, with gradient g for the filter that is used:
    ⟨g, u⟩ for the gain, and gain/‖w − mean‖ times g less its mean and less ⟨g, u⟩u for the weight.
    """
    weight, gain, bias = learning(layer.weight), learning(layer.gain), learning(layer.bias)
    calls = calls_of_stack(layer, tape)
    models, batch = calls[0][1].shape[:2]
    summed = summed_over_positions(calls)
    squares = summed.new_zeros(models, batch)
    if weight is not None or gain is not None:
        positions, size = positions_of(calls), layer.weight.numel() // models
        ghost = ghost_pays(positions, size // layer.groups)
        of_weight, of_gain = (_ghost_squares if ghost else _materialized_squares)(layer, calls)
        squares = sum((s for p, s in ((weight, of_weight), (gain, of_gain)) if p is not None), squares)
    if bias is not None:
        squares = squares + squared_norms(summed)

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        weights = weights.view(models, batch)
        result: dict[nn.Parameter, Tensor] = {}
        if bias is not None:
            result[bias] = weighted_sum(weights, summed).view_as(bias)
        if weight is not None or gain is not None:
            total = weighted_gradient(layer, calls, weights).flatten(2).unsqueeze(1)
            both = ((p, each) for p, each in zip((weight, gain), _carried_over(layer, total), strict=True))
            result |= {p: each.view_as(p) for p, each in both if p is not None}
        return result

    return squares if isinstance(layer, StackedStandardizedConvolution) else squares[0], sums


def _carried_over(
    layer: Layer, gradients: Float[Tensor, "models batch outputs fan_in"]
) -> tuple[Float[Tensor, "models batch outputs fan_in"], Float[Tensor, "models batch outputs"]]:
    """Gradients for weight and gain, from those for the weight that inputs are convolved with."""
    units, scales, free = (each.view(len(gradients), 1, *each.shape[-2:]) for each in _filters(layer, gradients))
    along = (gradients * units).sum(-1, keepdim=True)
    centered = gradients - gradients.mean(-1, keepdim=True)
    return scales * (centered - free * along * units), along.squeeze(-1)


def _materialized_squares(layer: Layer, calls: Calls) -> tuple[Tensor, Tensor]:
    of_weight, of_gain = _carried_over(layer, gradients_of_records(layer, calls).flatten(3))
    return squared_norms(of_weight.flatten(2)), squared_norms(of_gain)


def _ghost_squares(layer: Layer, calls: Calls) -> tuple[Tensor, Tensor]:
    """These squares without any record's gradient: Σ_t δ_t(a_t − mean)ᵀ is centered, and ⟨g, u⟩ = Σ_t δ_t ⟨u, a_t⟩."""
    models, batch = calls[0][1].shape[:2]
    patches, outer = (each.view(models, batch, *each.shape[1:]) for each in unfolded_calls(layer, calls))
    groups, outputs = outer.shape[2:4]  # of a group
    units, scales, free = (each.view(models, 1, groups, outputs, -1) for each in _filters(layer, outer))
    along = ((units @ patches) * outer).sum(-1, keepdim=True)
    centered = patches - patches.mean(3, keepdim=True)
    squares = ghost_norms(centered.mT, (scales * outer).mT) - (scales * free * along).square().sum((-2, -1))
    return squares.sum(2).clamp(min=0), squared_norms(along.flatten(2))


def _filters(layer: Layer, like: Tensor) -> Standardized:
    """The filters in the precision of a tensor: notes are compared in double."""
    return standardized(layer.weight.detach().to(like.dtype), layer.gain.detach().to(like.dtype))
