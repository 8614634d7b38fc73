"""Residual networks for images: ResNet-9, ResNet-18 and the wide ResNet-16-4, with a norm that keeps records apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from palisade.targets.networks import check_widths, group_norm

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm2d}
LEAST_SIDE = 8
"""Height and width below which three halvings leave nothing."""


def check_images(name: str, shape: Sequence[int], width: int, norm: str) -> None:
    """Raises ValueError for records that are no images of at least 8×8, a width below 1, or an unknown norm.

    Args:
        name: of the network in the settings.
        shape: of one record.
        width: channels of the first layer.
        norm: group or batch.
    """
    check_widths("network.width", [width])
    if norm not in NORM_LAYERS:
        raise ValueError(f"network.norm={norm}: expected one of {', '.join(NORM_LAYERS)}; choose e.g. group")
    if len(shape) != 3 or min(shape[1:]) < LEAST_SIDE:
        raise ValueError(
            f"network={name}: expected images (channels, height, width) of at least {LEAST_SIDE}×{LEAST_SIDE}, not"
            f" {tuple(shape)}; use mlp, or cnn for smaller images"
        )


class Shortcut(nn.Module):
    """A sum of two branches.

    Args:
        branch: what is learnt.
        direct: the way past it, the identity where shapes agree.
    """

    def __init__(self, branch: nn.Module, direct: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.direct = branch, nn.Identity() if direct is None else direct

    def forward(self, x: Float[Tensor, "... channels height width"]) -> Float[Tensor, "... outputs rows columns"]:
        """Both branches added; leading axes stay."""
        added: Tensor = self.direct(x) + self.branch(x)
        return added


def convolution(inputs: int, outputs: int, norm: str, *, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution without bias, the norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), NORM_LAYERS[norm](outputs), nn.ReLU()
    )


class ResNet9(nn.Sequential):
    """ResNet-9 of the DAWNBench entries for CIFAR-10 (Page 2018, "How to Train Your ResNet"), with group norm.

    Args:
        shape: (channels, height, width) of one record.
        classes: number of logits.
        width: channels of the first layer; later ones have two, four and eight times as many.
        norm: group, which keeps records apart, or batch, which mixes them and cannot be trained with DP-SGD.

    Raises:
        ValueError: if records are no images of at least 8×8, or a setting is out of range.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 64, norm: str = "group") -> None:
        check_images("resnet9", shape, width, norm)

        def halving(inputs: int) -> nn.Sequential:
            return nn.Sequential(*convolution(inputs, 2 * inputs, norm), nn.MaxPool2d(2))

        def residual(channels: int) -> Shortcut:
            return Shortcut(nn.Sequential(*(convolution(channels, channels, norm) for _ in range(2))))

        super().__init__(
            convolution(shape[0], width, norm),
            *(halving(width), residual(2 * width)),
            halving(2 * width),
            *(halving(4 * width), residual(8 * width)),
            *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes)),
        )


class BasicBlock(nn.Sequential):
    """Two 3×3 convolutions beside a shortcut, then ReLU (He et al. 2016, "Deep Residual Learning", section 3.3)."""

    def __init__(self, inputs: int, outputs: int, norm: str, stride: int) -> None:
        first = convolution(inputs, outputs, norm, stride=stride)
        second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), NORM_LAYERS[norm](outputs))
        direct = None
        if (inputs, stride) != (outputs, 1):
            direct = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), NORM_LAYERS[norm](outputs))
        super().__init__(Shortcut(nn.Sequential(*first, *second), direct), nn.ReLU())


class ResNet18(nn.Sequential):
    """ResNet-18 for small images: a first layer of 3×3 without pooling, then four stages of two basic blocks.

    He et al. 2016, "Deep Residual Learning for Image Recognition".

    Args:
        shape: (channels, height, width) of one record.
        classes: number of logits.
        width: channels of the first stage; each later one has twice as many.
        norm: as of `ResNet9`.

    Raises:
        ValueError: as `ResNet9`.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 64, norm: str = "group") -> None:
        check_images("resnet18", shape, width, norm)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(BasicBlock(inputs, outputs, norm, stride))
                inputs = outputs
        super().__init__(
            convolution(shape[0], width, norm),
            *blocks,
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)),
        )
