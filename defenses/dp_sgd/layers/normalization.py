"""Per-record gradients of layer, group, instance and RMS norms, single and stacked."""

from __future__ import annotations

from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.tape import Gradients, Tape, materialized
from palisade.targets.stacks import StackedNorm
from palisade.targets.stacks.normalization import PER_CHANNEL, normalizing, parameter_shape


def norm_gradients(layer: nn.Module, tape: Tape) -> Gradients:
    """Weight and bias are small: the per-record gradients Σ_t δ_t x̂_t and Σ_t δ_t are materialized."""
    if isinstance(layer, StackedNorm):
        axes, normalize, per_channel = 2, layer.normalize, layer.per_channel
    else:
        axes, normalize, per_channel = 1, normalizing(layer), isinstance(layer, PER_CHANNEL)
    samples: dict[nn.Parameter, Tensor] = {}
    for activation, delta in zip(*tape, strict=True):
        records, x, outer = delta.shape[:axes], activation.flatten(0, axes - 1), delta.flatten(0, axes - 1)
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            per_position = normalize(x).mul_(outer) if parameter is layer.weight else outer
            shape = parameter.shape[axes - 1 :]
            summed = per_position.sum_to_size(len(x), *parameter_shape(shape, x.ndim, per_channel)[1:])
            sample = summed.reshape(*records, *shape)
            samples[parameter] = samples[parameter] + sample if parameter in samples else sample
    return materialized(samples, axes)
