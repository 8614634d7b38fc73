"""Micro-batches of a Poisson batch, which may be empty or larger than memory."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
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
    raise ValueError(
        f"batch={type(batch).__name__}: expected a tensor whose rows are the records; return one from collate_fn"
    )


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
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return values.view(torch.uint8).numpy().tobytes() if len(values) else b""  # without values it may have no view


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


class PhysicalBatches:
    """Runs training_step on micro-batches of a Poisson batch; skips it for an empty batch.

    The sums of all parts are the sum of the batch, so noise and accountant see one step. User code rarely copes with
    empty batches, and whether one occurs depends on the records; with the sum being zeros the step is noise alone.

    Args:
        training_step: the user's.
        shape: returns the rows of a batch, (batch,) or (models, batch).
        unit_rows: rows of a batch, side by side, that may not be parted.
        at_once: rows of a part, at most; None for whole batches.
        clip: called with each part's shape after its backward pass, except the last, which Lightning runs.
        clear: called before every backward pass that Lightning does not run.
        check: raises if a batch has not the rows that were asked for.
    """

    def __init__(
        self,
        training_step: Callable[..., Any],
        *,
        shape: Callable[[Any], tuple[int, ...]],
        unit_rows: int,
        at_once: int | None,
        clip: Callable[[tuple[int, ...]], None],
        clear: Callable[[], None],
        check: Callable[[Any], object],
    ) -> None:
        self.training_step, self.shape = training_step, shape
        self.clip, self.clear, self.check = clip, clear, check
        self.at_once = None if at_once is None else max(at_once // unit_rows, 1) * unit_rows
        self.rows: tuple[int, ...] = ()
        """The shape of the part whose backward pass comes next."""
        self.whole: tuple[int, ...] = ()
        """That of the batch."""

    @property
    def empty(self) -> bool:
        """Absence of records in the part whose backward pass comes next."""
        return math.prod(self.rows) == 0

    def automatic(self) -> Callable[..., Any]:
        """The training_step for Lightning's own backward and step, which gets the loss of the last part."""

        @functools.wraps(self.training_step)
        def training_step(batch: Any, *rest: Any) -> Any:
            self.check(batch)
            self.rows = self.whole = whole = self.shape(batch)
            if self.empty:
                return torch.zeros((), requires_grad=True)
            at_once = self.at_once or whole[-1]
            for start in range(0, whole[-1], at_once):
                stop = min(start + at_once, whole[-1])
                self.rows = (*whole[:-1], stop - start)
                physical = batch if self.rows == whole else part(batch, start, stop, of=whole)
                loss = self.training_step(physical, *rest)
                if loss is None:
                    raise ValueError(
                        "training_step returned None; a step may not depend on the records, return the loss"
                    )
                if stop < whole[-1]:
                    self.clear()
                    (loss["loss"] if isinstance(loss, dict) else loss).backward()
                    self.clip(self.rows)
            return loss

        return training_step

    def manual(self, *, step: Callable[[], object]) -> Callable[..., Any]:
        """The training_step of a module that calls backward and step itself.

        Args:
            step: takes a step with noise alone.
        """

        @functools.wraps(self.training_step)
        def training_step(batch: Any, *rest: Any) -> Any:
            self.check(batch)
            self.rows = self.whole = self.shape(batch)
            if self.empty:
                return step()
            return self.training_step(batch, *rest)

        return training_step
