"""Residual networks for images: ResNet-9, ResNet-18 and WRN-16-4, with a norm that keeps records apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from palisade.targets.networks import check_widths, group_norm
from palisade.targets.standardization import StandardizedConv2d

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm2d}
WIDE_GROUPS = 16
"""Groups of a norm of WRN-16-4, and channels of its first layer."""
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


def standardized_convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """ReLU, group norm and a convolution with standardized weight, in this order."""
    convolution = StandardizedConv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(nn.ReLU(), nn.GroupNorm(WIDE_GROUPS, inputs), convolution)


class WideResNet16(nn.Sequential):
    """WRN-16-4 of DP-SGD's best results from scratch: no layer mixes records, and every convolution is standardized.

    De et al. 2022, "Unlocking High-Accuracy Differentially Private Image Classification through Scale", section 3.1,
    in the form of the authors' code; Zagoruyko & Komodakis 2016, "Wide Residual Networks".

    Args:
        shape: (channels, height, width) of one record.
        classes: number of logits.
        width: k, the widening factor: the three stages have 16k, 32k and 64k channels.

    Raises:
        ValueError: if records are no images of at least 8×8, or the width is below 1.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 4) -> None:
        check_images("wrn16_4", shape, width, "group")
        blocks, inputs = [], WIDE_GROUPS
        for stage in range(3):
            outputs, stride = WIDE_GROUPS * width * 2**stage, 1 if stage == 0 else 2
            direct = standardized_convolution(inputs, outputs, kernel=1, stride=stride)
            first = standardized_convolution(inputs, outputs, stride=stride)
            blocks.append(Shortcut(nn.Sequential(*first, *standardized_convolution(outputs, outputs)), direct))
            again = (standardized_convolution(outputs, outputs) for _ in range(2))
            blocks.append(Shortcut(nn.Sequential(*(layer for part in again for layer in part))))
            inputs = outputs
        linear = nn.Linear(inputs, classes)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        nn.init.zeros_(linear.bias)
        super().__init__(
            StandardizedConv2d(shape[0], WIDE_GROUPS, 3, padding=1),
            *blocks,
            *(nn.ReLU(), nn.GroupNorm(WIDE_GROUPS, inputs), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear),
        )
