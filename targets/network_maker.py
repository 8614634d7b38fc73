"""Networks made as a configuration says; one of a user's own is tried before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from palisade.data.dataset import Dataset
from palisade.data.settings import MAX_REASON_CHARACTERS, instantiated, validated
from palisade.targets.base_model import BASE_KEY, PATH_KEY, base_weights
from palisade.targets.low_rank import LowRankSettings, adapt

CAUSAL_TOLERANCE = 1e-4
"""How far answers may move by rounding, as a share of the largest one."""


@dataclass(frozen=True)
class NetworkMaker:
    """Makes networks for (shape, classes).

    Args:
        settings: `_target_` names the class, the rest are arguments of it; but for `base`, a folder with the weights
            that training begins with, and `lora.rank` (`LowRankSettings`), which any network may have.
    """

    settings: Mapping[str, Any]

    def __call__(self, *, shape: Sequence[int], classes: int) -> nn.Module:
        """A network with new weights, or those of its base.

        Raises:
            ValueError: if the class cannot be imported or made, or is none of networks, or the base does not fit, or
                the weights are more than this machine has memory for.
        """
        settings = {name: value for name, value in self.settings.items() if name not in ("lora", BASE_KEY)}
        if str(settings.get("_target_")).startswith("palisade.") and settings.get(PATH_KEY) is None:
            check_fits(json.dumps(settings, default=str), tuple(shape), classes)
        network = instantiated("network", settings, nn.Module, shape=shape, classes=classes)
        if (base := self.settings.get(BASE_KEY)) is not None:
            self._load(network, base)
        lora = validated(LowRankSettings, "network.lora", self.settings.get("lora") or {})
        return network if lora.rank is None else adapt(network, lora.rank)

    def _load(self, network: nn.Module, base: str) -> None:
        weights: dict[str, Tensor] = {}
        try:
            weights = load_file(base_weights(base))
            network.load_state_dict(weights)
        except (RuntimeError, SafetensorError) as error:
            reason = _mismatch(weights, network.state_dict()) or " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
            raise ValueError(
                f"network.{BASE_KEY}={base}: expected weights of the same architecture ({reason}); set network,"
                " data.length and data.tokens as they were set for the base"
            ) from None

    def try_out(self, dataset: Dataset) -> None:
        """Has a network, thrown away afterwards, answer two records.

        Raises:
            ValueError: if there is no answer, or not one float for each record, class and, in documents, position; or a
                position of documents sees those behind it.
        """
        records = torch.from_numpy(np.ascontiguousarray(dataset.x[:2]))
        wanted = (2, *dataset.y.shape[1:], len(dataset.classes))
        rule = f"expected logits {wanted} of {_shape(records)}"
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = self(shape=dataset.shape, classes=len(dataset.classes)).eval()
            with self._errors_in_one_line(rule):
                answer = network(records)
            if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.shape != wanted:
                raise ValueError(f"{self._name}: {rule}, and it returned {_shape(answer)}; correct its forward")
            if dataset.positional:
                path = self.settings.get(PATH_KEY)
                check_causal(self._name if path is None else f"network.{PATH_KEY}={path}", network, records)

    @property
    def _name(self) -> str:
        return f"network._target_={self.settings.get('_target_')}"

    @contextmanager
    def _errors_in_one_line(self, rule: str) -> Iterator[None]:
        """Turns whatever a network raises into one line; those of this project say themselves what is wrong."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, ValueError) and self.settings["_target_"].startswith("palisade.targets."):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARACTERS]
            raise ValueError(f"{self._name}: {rule}, and it raised {reason}; correct its forward")  # noqa: B904


@lru_cache(maxsize=256)
def check_fits(settings: str, shape: tuple[int, ...], classes: int) -> None:
    """Raises ValueError if a network of this project has more weights than this machine has memory for.

    The system would kill the process that makes it, without a word. Its weights are counted on a device without memory.

    Args:
        settings: of the network, as JSON.
        shape: of an input.
        classes: how many there are.
    """
    node = json.loads(settings)
    with torch.device("meta"):
        network = instantiated("network", node, nn.Module, shape=shape, classes=classes)
    size = sum(each.numel() * each.element_size() for each in network.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else size
    if size > memory:
        raise ValueError(
            f"network._target_={node['_target_']}: expected weights that fit into the {memory / 1e9:.0f} GB of this"
            f" machine, not {size / 1e9:,.0f} GB; choose a smaller network"
        )


def check_causal(name: str, network: nn.Module, x: Int64[Tensor, "documents T"]) -> None:
    """Raises ValueError if what a network answers at a position depends on those behind it.

    Such a network reads the token that it is to foretell: it would seem all-knowing, of every document alike.

    Args:
        name: the setting that names it, for errors.
        network: in evaluation mode.
        x: inputs of documents, at each position the token before.
    """
    half = x.shape[1] // 2
    with torch.no_grad():
        answer, other = network(x), network(torch.cat([x[:, :half], 1 - x[:, half:].clamp(max=1)], dim=1))
    before = slice(0, half)
    if half and (answer - other)[:, before].abs().max() > CAUSAL_TOLERANCE * answer.abs().max():
        raise ValueError(
            f"{name}: expected a network of which no position sees those behind it, since they hold what it is to"
            " foretell; choose a causal language model, such as network=gpt"
        )


def _shape(answer: object) -> str:
    """Input or output of a network, in a few words."""
    if not isinstance(answer, Tensor):
        return f"a {type(answer).__name__}"
    return f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"


def _mismatch(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """The first tensor of a base and a network that both have in other shapes, in words; None where there is none."""
    for name in (name for name in own if name in weights and weights[name].shape != own[name].shape):
        return f"{name} has the shape {tuple(weights[name].shape)} there, and {tuple(own[name].shape)} here"
    return None
