"""The networks that targets are made of. `shape` is that of one record, `classes` the number of logits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from jaxtyping import Float, Real
from torch import Tensor, nn

ACTIVATION_CLASSES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}
GROUP_SIZE = 8


def activation_class(name: str) -> type[nn.Module]:
    """The layer class of an activation by its name in the settings.

    Raises:
        ValueError: if no activation has this name.
    """
    if name not in ACTIVATION_CLASSES:
        raise ValueError(
            f"network.activation={name}: expected one of {', '.join(ACTIVATION_CLASSES)}; choose e.g. relu"
        )
    return ACTIVATION_CLASSES[name]


def check_widths(key: str, widths: Sequence[int]) -> None:
    """Refusal of layer widths that are no whole numbers from 1 on.

    Args:
        key: of the setting, for the error.
        widths: one per layer; there may be none.

    Raises:
        ValueError: if they are not.
    """
    if not isinstance(widths, Sequence) or not all(isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f"{key}={widths}: expected a list, each an integer >= 1; choose e.g. [128,64]")


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Group norm with about eight channels a group, the last resort being one group of all."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP_SIZE)), channels, affine=affine)


class MLP(nn.Sequential):
    """Dense layers with an activation between them; without a hidden layer it is the linear model.

    Args:
        shape: shape of one record, flattened on the way in.
        classes: number of logits.
        hidden: widths of the hidden layers.
        activation: relu, tanh, gelu or silu.
    """

    def __init__(
        self, *, shape: Sequence[int], classes: int, hidden: Sequence[int] = (), activation: str = "relu"
    ) -> None:
        check_widths("network.hidden", hidden)
        widths = [math.prod(shape), *hidden, classes]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), activation_class(activation)()]
        super().__init__(*layers[:-1])
        self.record_dimensions = len(shape)

    def forward(self, x: Real[Tensor, "..."]) -> Float[Tensor, "... classes"]:
        """Logits of flattened records; leading model and batch dimensions stay.

        Raises:
            ValueError: if records are whole numbers (tokens).
        """
        if not x.is_floating_point():
            raise ValueError(
                "network=mlp or linear: expected records of numbers, not words; use transformer (depth=0: bag of words)"
            )
        return super().forward(x.flatten(start_dim=x.ndim - self.record_dimensions))  # type: ignore[no-untyped-call]


class CNN(nn.Sequential):
    """Blocks of convolution, group norm, activation and pooling, then one dense layer.

    Group norm instead of batch norm, so that no layer mixes records and the network may be trained with DP-SGD.

    Args:
        shape: (channels, height, width) of one record.
        classes: number of logits.
        channels: width of every block; each block halves height and width.
        activation: relu, tanh, gelu or silu.
    """

    def __init__(
        self, *, shape: Sequence[int], classes: int, channels: Sequence[int] = (16, 32), activation: str = "relu"
    ) -> None:
        if len(shape) != 3:
            raise ValueError(
                f"network=cnn: expected records of shape (channels, height, width), not {tuple(shape)}; "
                "use mlp, or transformer for texts"
            )
        check_widths("network.channels", channels)
        planes, height, width = shape
        if min(height, width) < 2 ** len(channels):
            most = int(math.log2(min(height, width)))
            raise ValueError(
                f"network.channels={list(channels)}: expected at most {most} blocks, each of which halves images of"
                f" {height}×{width}; leave some out"
            )
        layers: list[nn.Module] = []
        for outputs in channels:
            layers += [
                nn.Conv2d(planes, outputs, kernel_size=3, padding=1),
                group_norm(outputs),
                activation_class(activation)(),
                nn.MaxPool2d(2),
            ]
            planes, height, width = outputs, height // 2, width // 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(planes * height * width, classes))
