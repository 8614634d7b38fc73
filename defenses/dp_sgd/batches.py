"""What a batch of unknown form holds: how many records, and the batch of some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def batch_shape(batch: Any, dimensions: int) -> tuple[int, ...]:
    """(batch,) or (models, batch), read from the first tensor.

    Raises:
        ValueError: if there is no such tensor.
    """
    for leaf in _leaves(batch):
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


def _lists_records(batch: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(batch, (list, tuple)) or len(shape) > 1 or len(batch) != shape[0]:
        return False
    tensors = [leaf for leaf in _leaves(batch) if isinstance(leaf, Tensor)]
    return not tensors or not all(_leads(tensor, shape) for tensor in tensors)


def _leads(leaf: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(leaf, Tensor) and tuple(leaf.shape[: len(shape)]) == shape


def _map(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same container with changed contents; a leaf stays as it is."""
    if isinstance(batch, dict):
        return type(batch)({key: change(value) for key, value in batch.items()})
    if _is_record(batch):
        parts = {field.name: change(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **parts)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(change, batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map(change, batch))
    return batch


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, dict):
        parts = list(batch.values())
    elif _is_record(batch):
        parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        yield batch
        return
    for value in parts:
        yield from _leaves(value)


def _is_record(batch: Any) -> bool:
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)
