"""Normalizations of several models side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from palisade.targets.stacks.parameters import side_by_side

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
PER_CHANNEL = (nn.GroupNorm, *INSTANCE_NORMS)
"""Weight and bias per channel, the axis after the batch; the others have them on the last axes."""


class StackedNorm(nn.Module):
    """K layer, group, instance or RMS norms side by side, each record normalized by itself.

    Weight and bias (models, *shape of a single one's); input (models, batch, ...).
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = side_by_side(layers, "weight")
        self.bias = side_by_side(layers, "bias")
        self.normalize = normalizing(layers[0])
        self.per_channel = isinstance(layers[0], PER_CHANNEL)

    def forward(self, x: Float[Tensor, "models batch ..."]) -> Float[Tensor, "models batch ..."]:
        """Every model's records, each normalized by itself, with that model's scale and shift."""
        y = self.normalize(x.flatten(0, 1)).view(x.shape)
        if self.weight is not None:
            y = y * self._broadcast(self.weight, x.ndim)
        if self.bias is not None:
            y = y + self._broadcast(self.bias, x.ndim)
        return y

    def _broadcast(self, parameter: Tensor, dimensions: int) -> Tensor:
        shape = parameter_shape(parameter.shape[1:], dimensions - 1, self.per_channel)
        return parameter.view(len(parameter), *shape)


def normalizing(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Function of a norm on a batch before its weight and bias."""
    match layer:
        case nn.LayerNorm():
            return partial(F.layer_norm, normalized_shape=layer.normalized_shape, eps=layer.eps)
        case nn.RMSNorm():
            return partial(F.rms_norm, normalized_shape=layer.normalized_shape, eps=layer.eps)
        case nn.GroupNorm():
            return partial(F.group_norm, num_groups=layer.num_groups, eps=layer.eps)
        case nn.InstanceNorm1d() | nn.InstanceNorm2d() | nn.InstanceNorm3d():
            return partial(F.instance_norm, eps=layer.eps)
    raise TypeError(f"{type(layer).__name__} is no norm")


def parameter_shape(shape: Sequence[int], dimensions: int, per_channel: bool) -> tuple[int, ...]:
    """The shape of a norm's parameter that broadcasts against an input with that many dimensions, the batch's first."""
    if per_channel:
        return (1, *shape, *[1] * (dimensions - 2))
    return (*[1] * (dimensions - len(shape)), *shape)
