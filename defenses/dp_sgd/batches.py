"""Batches of unknown form: how many records they hold, their tensors, and the batch of some of the records."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def batch_shape(batch: Any, dimensions: int) -> tuple[int, ...]:
    """(batch,) or (models, batch), read from the first tensor.

    Raises:
        ValueError: if there is no such tensor.
    """
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim >= dimensions:
            return tuple(leaf.shape[:dimensions])
    raise ValueError(f"batch={type(batch).__name__} holds no tensor to count records in; make its collate function")


def part(batch: Any, start: int, stop: int, *, of: tuple[int, ...]) -> Any:
    """The batch of records `start` to `stop`; what is not there for every record stays as it is.

    That is every tensor that leads with the batch's shape `of`, and every list as long that holds other things.
    """
    if _lists_records(batch, of):
        return batch[start:stop]
    if not isinstance(batch, Tensor):
        return _map(batch, lambda value: part(value, start, stop, of=of))
    return batch.narrow(len(of) - 1, start, stop - start) if _leads(batch, of) else batch


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with `change` applied to each of its tensors: same containers, all other leaves as they are."""
    return change(batch) if isinstance(batch, Tensor) else _map(batch, lambda value: map_tensors(value, change))


def leaves(batch: Any) -> Iterator[Any]:
    """Everything in a batch that is no container: tensors, numbers, strings, …, in the order of the containers."""
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif _is_record(batch):
        parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        yield batch
        return
    for value in parts:
        yield from leaves(value)


def content(tensor: Tensor) -> bytes:
    """The values of a tensor of any precision, NumPy's or not."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _lists_records(batch: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(batch, (list, tuple)) or len(shape) > 1 or len(batch) != shape[0]:
        return False
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
    return not tensors or not all(_leads(tensor, shape) for tensor in tensors)


def _leads(leaf: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(leaf, Tensor) and tuple(leaf.shape[: len(shape)]) == shape


def _map(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A container of the same kind with changed contents; a leaf stays as it is."""
    if isinstance(batch, Mapping):
        return _refilled(batch, {key: change(value) for key, value in batch.items()})
    if _is_record(batch):
        parts = {field.name: change(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **parts)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(change, batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map(change, batch))
    return batch


def _refilled(batch: Any, contents: Mapping[Any, Any]) -> Any:
    """A mapping of the same type and attributes with other values under its keys."""
    if not isinstance(batch, (dict, UserDict)):
        return type(batch)(contents)
    # Constructors may ask for something else (defaultdict) or forget attributes; copies of these two share no items.
    refilled = copy.copy(batch)
    for key, value in contents.items():
        refilled[key] = value
    return refilled


def _is_record(batch: Any) -> bool:
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)
