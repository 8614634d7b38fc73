"""Convolutions of several models side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from palisade.targets.stacks.parameters import side_by_side
from palisade.targets.standardization import StandardizedConv2d, used_weight

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS_BY_DIMENSION: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class StackedConvolution(nn.Module):
    """K convolutions side by side: one convolution with K times as many groups.

    Weight (models, outputs, inputs / groups, *kernel), bias (models, outputs); input (models, batch, inputs, *space).
    """

    def __init__(self, layers: Sequence[Convolution]) -> None:
        super().__init__()
        weight = side_by_side(layers, "weight")
        assert weight is not None
        self.weight, self.bias = weight, side_by_side(layers, "bias")
        first = layers[0]
        self.stride, self.dilation, self.groups = first.stride, first.dilation, first.groups
        self.padding, self.padding_mode = first.padding, first.padding_mode
        self._reversed_padding_repeated_twice = first._reversed_padding_repeated_twice

    def forward(self, x: Float[Tensor, "models batch inputs ..."]) -> Float[Tensor, "models batch outputs ..."]:
        """Every model's convolution of its own batch."""
        return self._convolved(x, self.weight)

    def _convolved(
        self, x: Float[Tensor, "models batch inputs ..."], weight: Float[Tensor, "models outputs inputs ..."]
    ) -> Float[Tensor, "models batch outputs ..."]:
        x, padding = padded(self, channels_of_all(x))
        bias = None if self.bias is None else self.bias.flatten()
        groups = len(weight) * self.groups
        convolve = CONVOLUTIONS_BY_DIMENSION[weight.ndim - 3]
        y = convolve(x, weight.flatten(0, 1), bias, self.stride, padding, self.dilation, groups)
        return y.view(len(y), *weight.shape[:2], *y.shape[2:]).transpose(0, 1).contiguous()


class StackedStandardizedConvolution(StackedConvolution):
    """K convolutions of standardized weight side by side; besides, gain (models, outputs)."""

    def __init__(self, layers: Sequence[StandardizedConv2d]) -> None:
        super().__init__(layers)
        gain = side_by_side(layers, "gain")
        assert gain is not None
        self.gain = gain

    def forward(self, x: Float[Tensor, "models batch inputs ..."]) -> Float[Tensor, "models batch outputs ..."]:
        """Every model's convolution of its own batch, with its standardized weight."""
        return self._convolved(x, used_weight(self.weight, self.gain))


def channels_of_all(x: Float[Tensor, "sets batch channels ..."]) -> Float[Tensor, "batch sets*channels ..."]:
    """Sets of records with the channels of one next to those of the other, as a grouped convolution wants them."""
    return x.transpose(0, 1).flatten(1, 2)


def padded(
    layer: Convolution | StackedConvolution, x: Float[Tensor, "batch inputs ..."]
) -> tuple[Tensor, tuple[int, ...]]:
    """The input as the convolution sees it, and how many zeros it still pads it with."""
    if layer.padding_mode != "zeros":
        return F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), (0,) * len(layer.stride)
    if isinstance(layer.padding, str):  # 'same' may need one zero more on one side
        return F.pad(x, layer._reversed_padding_repeated_twice), (0,) * len(layer.stride)
    return x, layer.padding
