"""Convolutions whose weight is standardized before it is used."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

LEAST_SQUARED_NORM = 1e-4
"""Squared norm of a filter's centered weights that they are divided as if they had, if theirs is smaller."""


class Standardized(NamedTuple):
    """Filters of a convolution in the form w = gain · unit, one row a filter.

    Args:
        units: centered weights, divided by their norm.
        scales: gain over that norm.
        free: 1 where the norm is the weights' own, 0 where `LEAST_SQUARED_NORM` stands in for it.
    """

    units: Float[Tensor, "*models outputs fan_in"]
    scales: Float[Tensor, "*models outputs 1"]
    free: Float[Tensor, "*models outputs 1"]


def standardized(
    weight: Float[Tensor, "*models outputs inputs ..."], gain: Float[Tensor, "*models outputs"]
) -> Standardized:
    """Scaled weight standardization (Brock et al. 2021, "Characterizing Signal Propagation", section 4.1)."""
    filters = weight.flatten(gain.ndim)
    centered = filters - filters.mean(-1, keepdim=True)
    squares = centered.square().sum(-1, keepdim=True)
    norms = squares.clamp(min=LEAST_SQUARED_NORM).sqrt()
    return Standardized(centered / norms, gain.unsqueeze(-1) / norms, (squares > LEAST_SQUARED_NORM).to(gain))


def used_weight(
    weight: Float[Tensor, "*models outputs inputs ..."], gain: Float[Tensor, "*models outputs"]
) -> Float[Tensor, "*models outputs inputs ..."]:
    """The weight that inputs are convolved with: each filter centered, and of the norm that its gain says."""
    return (gain.unsqueeze(-1) * standardized(weight, gain).units).view_as(weight)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are centered and scaled to the norm `gain`, a number that each filter learns.

    Args:
        sizes: as of `nn.Conv2d`: channels in and out, and the kernel.
        settings: as of `nn.Conv2d`.
    """

    def __init__(self, *sizes: Any, **settings: Any) -> None:
        super().__init__(*sizes, **settings)
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))

    def reset_parameters(self) -> None:
        """New weights, of expected norm 1 in each filter, and no bias."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        """The convolution with the standardized weight."""
        return self._conv_forward(x, used_weight(self.weight, self.gain), self.bias)
