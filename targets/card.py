"""Reading the card of a release that anybody may have written: names from closed lists, and no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from palisade.targets.gpt import GPT
from palisade.targets.guards import GUARDS_BY_NAME, Guard
from palisade.targets.hugging_face import HuggingFaceModel
from palisade.targets.low_rank import adapt
from palisade.targets.networks import CNN, MLP
from palisade.targets.pretrained import Pretrained
from palisade.targets.residual import ResNet9, ResNet18, WideResNet16
from palisade.targets.transformer import Transformer

NETWORKS_BY_NAME: dict[str, type[nn.Module]] = {
    f"{kind.__module__}.{kind.__name__}": kind
    for kind in (MLP, CNN, ResNet9, ResNet18, WideResNet16, Transformer, GPT, Pretrained, HuggingFaceModel)
}
CARD_BYTES = 2**26
READER_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, RuntimeError),
    *(MemoryError, SafetensorError),
)
"""Errors that readers raise over a file that is no release."""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turns whatever a file that is no release makes its readers raise into one line that names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {_shortened(error)}") from error
    except READER_ERRORS as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {_shortened(error)}); get it anew") from error


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a release, whoever wrote it: plain values.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no card.
    """
    path = folder / "card.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no card.json; give the folder that ship=<run> printed")
    with blaming(path):
        if (size := path.stat().st_size) > CARD_BYTES:
            raise ValueError(f"it has {size} bytes, more than {CARD_BYTES}")
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not isinstance(card["data"], dict):
            raise ValueError("it is no card")
        classes, shape = card["data"]["classes"], card["data"]["shape"]
        if not isinstance(classes, list) or not classes or not all(isinstance(word, str) for word in classes):
            raise ValueError("data.classes is no list of words")
        if not isinstance(shape, list) or not shape or not all(type(length) is int and length > 0 for length in shape):
            raise ValueError("data.shape is no list of lengths")
    return card


def network_of(
    card: Mapping[str, Any], network: Callable[..., nn.Module] | None, weights: Mapping[str, Tensor]
) -> nn.Module:
    """The network that a card names, with its weights; takes no memory before the card and the weights agree."""
    name, settings = card["network"]["name"], card["network"]["settings"]
    make = network or NETWORKS_BY_NAME.get(name)
    if make is None:
        known = ", ".join(path.rpartition(".")[2] for path in NETWORKS_BY_NAME)
        raise ValueError(f"network={name}: expected one of {known}; give its class as network=")
    if network is None and settings.get("path") is not None:
        raise ValueError("its network is to be read from a file of this machine, which no release asks for")
    rank = (settings.get("lora") or {}).get("rank")
    own = {key: value for key, value in settings.items() if key != "lora"}
    arguments = {**own, "shape": card["data"]["shape"], "classes": len(card["data"]["classes"])}
    if network is None:
        with torch.device("meta"):
            wanted = _adapted(make(**arguments), rank).state_dict()
        if _kinds(wanted) != _kinds(weights):
            raise ValueError(f"its weights are not those of {name} with {settings}")
    module = _adapted(make(**arguments), rank)
    module.load_state_dict(weights)
    return module


def _adapted(network: nn.Module, rank: int | None) -> nn.Module:
    return network if rank is None else adapt(network, rank)


def _kinds(weights: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in weights.items()}


def guard_of(content: Mapping[str, Any]) -> Guard:
    """The guard that a card names, without what it learned about the model."""
    if (make := GUARDS_BY_NAME.get(content["name"])) is None:
        raise ValueError(
            f"guard={content['name']}: expected one of {', '.join(GUARDS_BY_NAME)}; use the version that wrote it"
        )
    return make(**content["settings"])


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
