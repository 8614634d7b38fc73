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
    """The batch of records `start` to `stop`; what does not lead with the batch's shape `of` stays as it is."""
    return _map(batch, lambda leaf: leaf.narrow(len(of) - 1, start, stop - start) if _leads(leaf, of) else leaf)


def _leads(leaf: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(leaf, Tensor) and tuple(leaf.shape[: len(shape)]) == shape


def _map(batch: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(batch, dict):
        return type(batch)({key: _map(value, change) for key, value in batch.items()})
    if _is_record(batch):
        parts = {field.name: _map(getattr(batch, field.name), change) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **parts)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_map(value, change) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_map(value, change) for value in batch)
    return change(batch)


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
