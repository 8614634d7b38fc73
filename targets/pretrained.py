"""Networks of torchvision with weights that were trained before on other images, from a file of this machine."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from palisade.data.settings import place

COLOR_CHANNELS = 3


class Pretrained(nn.Module):
    """An image classifier of torchvision with weights from a file, and a new last layer for the classes at hand.

    ε covers nothing that the file's weights tell of the images they were trained on. Nothing is downloaded.

    Args:
        shape: (3, height, width) of one record.
        classes: number of logits.
        architecture: name of a classifier of `torchvision.models` whose last layer is linear, such as resnet18.
        path: of the weights, as torchvision names them: .safetensors, or what `torch.save` wrote of a `state_dict`.
            None: new weights, for those of a release that are read afterwards.
        frozen: whether the last layer alone is trained; all others then stay in evaluation mode.

    Raises:
        ValueError: if torchvision is missing, it has no such classifier, or the file holds other weights.
    """

    def __init__(
        self, *, shape: Sequence[int], classes: int, architecture: str, path: str | None = None, frozen: bool = False
    ) -> None:
        super().__init__()
        if len(shape) != 3 or shape[0] != COLOR_CHANNELS:
            raise ValueError(
                f"network=pretrained: expected images ({COLOR_CHANNELS}, height, width), not {tuple(shape)}; choose"
                " another one"
            )
        if not isinstance(frozen, bool):
            raise ValueError(f"network.frozen={frozen}: expected true or false; choose one of them")
        self.backbone = _classifier(architecture)
        self.frozen = frozen
        self.head, inputs = _last_linear(self.backbone, architecture)
        self.backbone.set_submodule(self.head, nn.Linear(inputs, classes))
        if path is not None:
            _load(self.backbone, path, self.head, architecture)
        if frozen:
            self.backbone.requires_grad_(False)
            self.backbone.get_submodule(self.head).requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> Pretrained:
        """Training mode, of the last layer alone where the others are frozen."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            self.backbone.get_submodule(self.head).train(mode)
        return self

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of standardized images, at the size they have."""
        logits: Tensor = self.backbone(x)
        return logits


def _classifier(architecture: str) -> nn.Module:
    """A network of torchvision with new weights."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError):  # the latter where it was built for another torch
        raise ValueError(
            "network=pretrained: expected torchvision to be installed, from where torch is; call pip install -e"
            " '.[vision]'"
        ) from None
    if architecture not in models.list_models(module=models):
        raise ValueError(
            f"network.architecture={architecture}: expected a classifier of torchvision.models; choose e.g. resnet18"
        )
    network: nn.Module = models.get_model(architecture, weights=None)
    return network


def _last_linear(network: nn.Module, architecture: str) -> tuple[str, int]:
    """Name and number of inputs of the last linear layer."""
    layers = [(name, layer.in_features) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(
            f"network.architecture={architecture}: expected a network whose last layer is linear; choose e.g. resnet18"
        )
    return layers[-1]


def _load(network: nn.Module, path: str, head: str, architecture: str) -> None:
    """Puts a file's weights into all layers but the last, which may be one for other classes there."""
    weights, own = _read(path), network.state_dict()
    wanted = {name: value.shape for name, value in own.items() if not name.startswith(f"{head}.")}
    read = {name: value.shape for name, value in weights.items() if not name.startswith(f"{head}.")}
    if wanted != read:
        differing = sorted(name for name in {*wanted, *read} if wanted.get(name) != read.get(name))
        raise ValueError(
            f"network.path={path}: expected the weights of network.architecture={architecture}, but {len(differing)}"
            f" differ, such as {differing[0]}; give another file or architecture"
        )
    network.load_state_dict({**own, **{name: weights[name] for name in wanted}})


def _read(path: str) -> Mapping[str, Tensor]:
    file: Path = place("network.path", path)
    if not file.is_file():
        raise ValueError(f"network.path={path}: expected a file of weights; give its name")
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"network.path={path}: expected a .safetensors file or a state_dict of torch.save, and reading it raised"
            f" {type(error).__name__}; give such a file"
        ) from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"network.path={path}: expected a state_dict, names and tensors alone; save that")
    return content
