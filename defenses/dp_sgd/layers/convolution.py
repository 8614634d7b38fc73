"""Per-record gradients of convolutions, single and stacked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import grad

from palisade.defenses.dp_sgd.layers.tape import (
    Gradients,
    Tape,
    ghost_norms,
    ghost_pays,
    learning,
    squared_norms,
    weighted_sum,
)
from palisade.targets.stacks.convolution import Convolution, StackedConvolution, channels_of_all, padded

WEIGHT_GRADIENT: dict[int, Callable[..., Tensor]] = {
    1: grad.conv1d_weight,
    2: grad.conv2d_weight,
    3: grad.conv3d_weight,
}

Calls = Sequence[tuple[Tensor, Tensor]]


def convolution_gradients(layer: Convolution | StackedConvolution, tape: Tape) -> Gradients:
    """The gradients of all records are one grouped convolution: a group per record, so that nothing is unfolded.

    Where weights are many and positions T few, ghost norms of the unfolded input are cheaper (Bu et al. 2022,
    "Scalable and Efficient Training of Large Convolutional Neural Networks with Differential Privacy", section 3).
    """
    weight, bias = learning(layer.weight), learning(layer.bias)
    calls = calls_of_stack(layer, tape)
    models, batch = calls[0][1].shape[:2]
    summed = summed_over_positions(calls)
    squares = summed.new_zeros(models, batch)
    sample_gradients: Tensor | None = None
    if weight is not None:
        size, positions = weight.numel() // models, positions_of(calls)
        if ghost_pays(positions, size // layer.groups):
            unfolded, outer = unfolded_calls(layer, calls)
            squares = ghost_norms(unfolded.mT, outer.mT).sum(1).view(models, batch)
        else:
            samples = gradients_of_records(layer, calls).flatten(2)
            squares = squared_norms(samples)
            if size <= positions * (calls[0][0].shape[2] + calls[0][1].shape[2]):  # no more than the tape itself
                sample_gradients = samples
    if bias is not None:
        squares = squares + squared_norms(summed)

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        weights = weights.view(models, batch)
        result: dict[nn.Parameter, Tensor] = {}
        if bias is not None:
            result[bias] = weighted_sum(weights, summed).view_as(bias)
        if weight is not None and sample_gradients is not None:
            result[weight] = weighted_sum(weights, sample_gradients).view_as(weight)
        elif weight is not None:
            result[weight] = weighted_gradient(layer, calls, weights).view_as(weight)
        return result

    return squares if isinstance(layer, StackedConvolution) else squares[0], sums


def calls_of_stack(layer: Convolution | StackedConvolution, tape: Tape) -> Calls:
    """Activation and output gradient of every call, both (models, batch, channels, ...); a layer is a stack of one."""
    stacked = isinstance(layer, StackedConvolution)
    activations, deltas = (calls if stacked else [call.unsqueeze(0) for call in calls] for calls in tape)
    return list(zip(activations, deltas, strict=True))


def positions_of(calls: Calls) -> int:
    """Positions of a record in all calls together."""
    return sum(delta.shape[3:].numel() for _, delta in calls)


def summed_over_positions(calls: Calls) -> Float[Tensor, "models batch outputs"]:
    """The gradient of each record for the bias."""
    return functools.reduce(torch.add, [delta.flatten(3).sum(3) for _, delta in calls])


def gradients_of_records(
    layer: Convolution | StackedConvolution, calls: Calls
) -> Float[Tensor, "models batch outputs inputs_per_group ..."]:
    """The gradient of each record for the weight that inputs are convolved with."""
    alone = [
        _weight_gradient(layer, activation.flatten(0, 1).unsqueeze(1), delta.flatten(0, 1).unsqueeze(1))
        for activation, delta in calls
    ]
    summed = functools.reduce(torch.add, alone)
    return summed.view(*calls[0][1].shape[:2], *summed.shape[1:])


def weighted_gradient(
    layer: Convolution | StackedConvolution, calls: Calls, weights: Float[Tensor, "models batch"]
) -> Float[Tensor, "models outputs inputs_per_group ..."]:
    """The sum of these gradients, each times its record's weight, without any of them."""
    weighted = [
        _weight_gradient(layer, activation, delta * weights.view(*weights.shape, *[1] * (delta.ndim - 2)))
        for activation, delta in calls
    ]
    return functools.reduce(torch.add, weighted)


def unfolded_calls(
    layer: Convolution | StackedConvolution, calls: Calls
) -> tuple[Float[Tensor, "records groups fan_in positions"], Float[Tensor, "records groups outputs positions"]]:
    """Patches under the kernel at all positions of a record, and the output gradients there."""
    unfolded = torch.cat([_unfolded(layer, activation.flatten(0, 1)) for activation, _ in calls], dim=3)
    outer = torch.cat([_by_group(layer, delta.flatten(0, 1)).flatten(3) for _, delta in calls], dim=3)
    return unfolded, outer


def _weight_gradient(
    layer: Convolution | StackedConvolution,
    activation: Float[Tensor, "sets batch inputs ..."],
    delta: Float[Tensor, "sets batch outputs ..."],
) -> Float[Tensor, "sets outputs inputs_per_group ..."]:
    """The gradient of a single model's weight, summed over the records of each set."""
    sets, dimensions = len(delta), delta.ndim - 3
    outputs, *others = layer.weight.shape[-2 - dimensions :]
    if delta.numel() == 0:
        return delta.new_zeros(sets, outputs, *others)
    x, padding = padded(layer, channels_of_all(activation))
    summed = WEIGHT_GRADIENT[dimensions](
        *(x, (sets * outputs, *others), channels_of_all(delta)),
        *(layer.stride, padding, layer.dilation, sets * layer.groups),
    )
    return summed.view(sets, outputs, *others)


def _unfolded(
    layer: Convolution | StackedConvolution, activation: Float[Tensor, "records inputs ..."]
) -> Float[Tensor, "records groups inputs_per_group*kernel positions"]:
    """Patches under the kernel at every position."""
    x, padding = padded(layer, activation)
    x = F.pad(x, [side for zeros in reversed(padding) for side in (zeros, zeros)])
    space = range(2, x.ndim)
    kernel = layer.weight.shape[-len(space) :]
    for axis, size, step, gap in zip(space, kernel, layer.stride, layer.dilation, strict=True):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    x = _by_group(layer, x)  # (records, groups, inputs, *positions, *kernel)
    x = x.movedim([axis + 1 + len(space) for axis in space], [axis + 1 for axis in space])
    return x.flatten(2, 2 + len(space)).flatten(3)


def _by_group(
    layer: Convolution | StackedConvolution, x: Float[Tensor, "records channels ..."]
) -> Float[Tensor, "records groups channels_per_group ..."]:
    return x.reshape(len(x), layer.groups, x.shape[1] // layer.groups, *x.shape[2:])
