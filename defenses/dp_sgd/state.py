"""The state of a module: buffers, frozen parameters, weights and attributes, to be compared and put back."""

from __future__ import annotations

import copy
import hashlib
import types
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils import data
from torchmetrics import Metric, MetricCollection

from palisade.defenses.dp_sgd.microbatches import content

REPLACED_ATTRIBUTES = ("training_step", "forward", "log", "log_dict", "manual_backward", "optimizers", "lr_schedulers")
"""Attributes that this package puts on an instance for a while."""
INTERNAL_ATTRIBUTES = frozenset((*vars(pl.LightningModule()), *vars(nn.Module()), *REPLACED_ATTRIBUTES))
LIBRARY_MODULES = ("torch", "pytorch_lightning", "lightning", "torchmetrics", "numpy", "builtins")
SEQUENCE_TYPES = (list, tuple, deque, set, frozenset)
CONTAINER_TYPES = (list, tuple, deque, dict, set, np.ndarray)
DATA_TYPES = (data.Dataset, data.DataLoader, pl.LightningDataModule)
"""Objects that hold records by right, often many, and are no state."""
MAX_NESTING_DEPTH = 8
"""Levels of containers and objects within each other that are looked at."""


class ModuleState:
    """State of a module tree.

    Metrics of torchmetrics and what Lightning and torch keep for themselves are put back like everything else, but
    never compared: they change with every batch, and no gradient depends on them.

    Args:
        module: the user's.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        ignored = {
            inner
            for metric in module.modules()
            if isinstance(metric, Metric | MetricCollection)
            for inner in metric.modules()
        }
        self._modules = [(name, each, each not in ignored) for name, each in module.named_modules()]
        self.weights = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._watched = [
            (name, vars(each), type(each).__module__.partition(".")[0] != "torch")
            for name, each, compared in self._modules
            if compared
        ]

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        for prefix, held, own in self._watched:
            for name, value in held.items():
                if name not in INTERNAL_ATTRIBUTES and (
                    own or not name.startswith("_")
                ):  # torch's layers keep caches there
                    yield f"{prefix}.{name}" if prefix else name, value

    def sign(self, ignored: Collection[str] = ()) -> dict[str, Any]:
        """A cheap mark of each value but the ignored ones, which changes with it, unless `.data` does it."""
        marks = {name: _sign(value) for name, value in self._attributes() if name not in ignored}
        marks.update((name, _sign(tensor)) for name, tensor in self._tensors(compared=True) if name not in ignored)
        return marks

    def weights_sign(self) -> tuple[Any, ...]:
        """A cheap mark of the trainable weights, which changes with them, unless `.data` does it."""
        return tuple((id(parameter), parameter._version) for _, parameter in self.weights)

    def values(self, ignored: Collection[str] = ()) -> dict[str, Any]:
        """Copies of all numbers, texts and tensors, by the parameter, buffer or attribute that they belong to."""
        tensors = [*self._tensors(compared=True), *self.weights]
        values: dict[str, Any] = {
            name: {"": tensor.detach().clone()} for name, tensor in tensors if name not in ignored
        }
        for name, value in self._attributes():
            if name not in ignored:
                values[name] = dict(_leaves("", value, set(), MAX_NESTING_DEPTH))
        return values

    @property
    def holds_containers(self) -> bool:
        """Opacity of an attribute: neither a number nor a tensor, so that changes in it leave no cheap mark."""
        return any(not _is_plain(value) and not isinstance(value, Tensor) for _, value in self._attributes())

    def digests(self) -> dict[str, bytes]:
        """Hashes of frozen parameters and buffers, which `.data` cannot change unseen."""
        return {name: hashlib.blake2b(content(tensor)).digest() for name, tensor in self._tensors(compared=True)}

    def lasting(self, name: str) -> bool:
        """Test for a part of what is released: a parameter, or an entry of `state_dict`."""
        return name in self.module.state_dict() or name in dict(self.module.named_parameters())

    def save(self, *, weights: bool = True) -> Saved:
        """Copy of the state, with the trained weights or without, to be put back."""
        tensors = [*self._tensors(compared=False), *(self.weights if weights else ())]
        return Saved(
            tensors=tensors,
            registers=[held for _, each, _ in self._modules for held in (each._buffers, each._parameters)],
            holders=[(prefix, vars(each)) for prefix, each, _ in self._modules],
            keep=[self.module, *(each for _, each, _ in self._modules), *self.module.parameters()],
        )

    def _tensors(self, *, compared: bool) -> Iterator[tuple[str, Tensor]]:
        """Frozen parameters and buffers, without those of metrics if they are to be compared."""
        for prefix, each, is_compared in self._modules:
            if is_compared or not compared:
                for name, tensor in (*each._parameters.items(), *each._buffers.items()):
                    if tensor is not None and not tensor.requires_grad:
                        yield f"{prefix}.{name}" if prefix else name, tensor


class Saved:
    """A state that can be put back, again and again.

    What cannot be copied (locks, files, generators), and objects of libraries, stay as they are.

    Args:
        tensors: whose values are kept, by name.
        registers: the dictionaries that hold buffers and parameters.
        holders: dictionaries of attributes, each with the name of its module.
        keep: objects that copies refer to as they are.
    """

    def __init__(
        self,
        tensors: Sequence[tuple[str, Tensor]],
        registers: Sequence[dict[str, Any]],
        holders: Sequence[tuple[str, dict[str, Any]]],
        keep: Sequence[object],
    ) -> None:
        self._keep = {id(each): each for each in keep}
        self._tensors = [(name, tensor, tensor.detach().clone()) for name, tensor in tensors]
        self._registers = [(held, dict(held)) for held in registers]
        self._holders = [
            (
                prefix,
                held,
                {name: (value, self._copy(value)) for name, value in held.items() if name not in INTERNAL_ATTRIBUTES},
            )
            for prefix, held in holders
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts weights, buffers, attributes and registered modules back to what they were."""
        for register, there in self._registers:
            register.clear()
            register.update(there)
        for _, tensor, value in self._tensors:
            tensor.data.copy_(value)
        for _, held, before in self._holders:
            for name in [name for name in held if name not in INTERNAL_ATTRIBUTES and name not in before]:
                del held[name]
            for name, (value, copied) in before.items():
                held[name] = self._put_back(value, copied)

    @torch.no_grad()
    def restore_some(self, names: Collection[str]) -> None:
        """Puts back some attributes and buffers alone, by the names of `ModuleState.values`."""
        for register, there in self._registers:
            register.update(there)
        for name, tensor, value in self._tensors:
            if name in names:
                tensor.data.copy_(value)
        for prefix, held, before in self._holders:
            for name, (value, copied) in before.items():
                if (f"{prefix}.{name}" if prefix else name) in names:
                    held[name] = self._put_back(value, copied)

    def changed(self) -> tuple[list[str], Bool[Tensor, " tensors"]]:
        """Names of all tensors, and which of them are no longer the same: a mark that nothing has waited for yet."""
        marks = [_differs(tensor.detach(), value) for _, tensor, value in self._tensors]
        return [name for name, _, _ in self._tensors], torch.stack(marks) if marks else torch.zeros(0, dtype=torch.bool)

    def _copy(self, value: Any) -> Any:
        if _is_plain(value):
            return value
        if isinstance(value, Tensor):
            return value.detach().clone()
        if not isinstance(value, CONTAINER_TYPES) and not _is_user_object(value):
            return value
        try:
            return copy.deepcopy(value, dict(self._keep))
        except Exception:  # whatever an object raises that cannot be copied
            return value

    def _put_back(self, value: Any, copied: Any) -> Any:
        """The object itself, with the values that it had."""
        if _is_plain(value) or copied is value:
            return value
        if isinstance(value, Tensor):
            value.data.copy_(copied)
            return value
        if isinstance(value, tuple):  # itself fixed, but not what is in it
            for inner, before in zip(value, copied, strict=True):
                self._put_back(inner, before)
            return value
        again = self._copy(copied)
        if isinstance(value, np.ndarray):
            value[...] = again
        elif isinstance(value, list):
            value[:] = again
        elif isinstance(value, deque):
            value.clear()
            value.extend(again)
        elif isinstance(value, dict | set):
            value.clear()
            value.update(again)
        elif _is_user_object(value):
            vars(value).clear()
            vars(value).update(vars(again))
        return value


def attributes_sign(value: object) -> tuple[Any, ...]:
    """A cheap mark of an object's attributes."""
    return tuple(_sign(each) for each in vars(value).values())


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the values that differ between two sets."""
    names = dict.fromkeys([*one, *other])
    return [name for name in names if name not in one or name not in other or not _alike(one[name], other[name])]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)


def _leaves(prefix: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Numbers, texts and copies of tensors within a value, by name."""
    if _is_plain(value):
        yield prefix, value
    elif isinstance(value, nn.Parameter | pl.Trainer) or depth == 0:
        return  # parameters have names of their own
    elif isinstance(value, nn.Module):
        for name, tensor in value.state_dict().items():  # one that is no submodule, as in a plain list
            yield f"{prefix}.{name}", tensor.detach().clone()
    elif isinstance(value, Tensor):
        yield prefix, value.detach().clone()
    elif isinstance(value, np.ndarray | np.generic):
        yield prefix, value.copy()
    elif id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, SEQUENCE_TYPES):
            yield f"{prefix} (length)", len(value)
        for name, part in _parts(value).items():
            yield from _leaves(f"{prefix}.{name}".lstrip("."), part, seen, depth - 1)


def _parts(value: Any) -> Mapping[Any, Any]:
    """Entries of a mapping, elements of a sequence or set by position, attributes of a user's object."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, SEQUENCE_TYPES):
        return dict(enumerate(value))
    return vars(value) if _is_user_object(value) else {}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _is_user_object(value: Any) -> bool:
    """Test for an object of the user's, whose attributes are state."""
    kinds = (type, types.FunctionType, types.MethodType, types.ModuleType, *DATA_TYPES)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, kinds)
        and type(value).__module__.partition(".")[0] not in LIBRARY_MODULES
    )


def _sign(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value), None if value.is_inference() else value._version
    if isinstance(value, list | deque) and value:
        return id(value), len(value), _sign(value[-1])
    if isinstance(value, dict | set | list | deque):
        return id(value), len(value)
    if _is_user_object(value) and not isinstance(value, nn.Module):
        return id(value), *map(id, vars(value).values())
    return id(value)


def _differs(one: Tensor, other: Tensor) -> Bool[Tensor, ""]:
    if one.shape != other.shape or one.dtype != other.dtype:
        return torch.ones((), dtype=torch.bool, device=one.device)
    differs = one != other
    return (differs & ~(one.isnan() & other.isnan()) if one.is_floating_point() else differs).any()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return not _differs(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    if type(one) is not type(other):
        return False
    return bool(one == other) or (one != one and other != other)
