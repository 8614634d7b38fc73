"""Records of a fit, as batches of any of them, and a diverse choice among them."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from palisade.defenses.dp_sgd.microbatches import batch_shape, content, leaves, part

WHOLE_STEPS = 16
"""Steps of a foreign sampler that the records for a first look are taken from, at most."""


class Part(NamedTuple):
    """Adjacent rows of a step whose records have no names."""

    step: Any
    columns: tuple[int, ...]


class Drawn:
    """A foreign Poisson sampler whose steps can be asked for when their batch arrives.

    Args:
        sampler: yields a step at a time.
    """

    poisson = True

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.waiting: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        self.waiting.clear()
        for step in self.sampler:
            self.waiting.append(step)
            yield step


class FitRecords:
    """Makes batches of some units of privacy as the loader makes whole steps.

    A step is what the sampler yields: indices, those of one unit side by side; indices and mask of every model of a
    stack (`data.samplers.Step`); or anything else that the data set turns into a batch of as many rows as the
    sampler declares (`rows_per_index`).

    Args:
        make: turns a step into a collated batch.
        transfer: puts a batch on the device and runs the user's hooks for that.
        rows_per_unit: rows of a unit.
        waiting: steps whose batch has not arrived yet.
        rows_per_index: rows that the data set makes of an index.
        first: yields steps whose units stand for all, at least once.
        on_host: makes the batch of a step on the CPU, for data sets that lie on a device; None where collated batches
            do.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        *,
        transfer: Callable[[Any], Any],
        rows_per_unit: int,
        waiting: deque[Any],
        first: Callable[[int, int], Any],
        rows_per_index: int | None = None,
        on_host: Callable[[Any], Any] | None = None,
    ) -> None:
        self.make, self.transfer, self.rows_per_unit = make, transfer, rows_per_unit
        self.waiting, self.first, self.rows_per_index, self.on_host = waiting, first, rows_per_index, on_host
        self.step: Any = None
        """The step whose batch is being trained on."""

    def advance(self) -> None:
        """Notes that the next batch has arrived."""
        self.step = self.waiting.popleft() if self.waiting else None

    @property
    def separable(self) -> bool:
        """Separability: records of a step are made one by one, rather than in whole batches that can be parted."""
        return self.rows_per_index is None

    def rows(self, step: Any) -> int:
        """Number of rows that its batch must lead with.

        Raises:
            ValueError: if the sampler says neither which records nor how many rows it means.
        """
        if _is_stack_step(step):
            return int(step[0].shape[1])
        if isinstance(step, Part):
            return len(step.columns)
        if self.rows_per_index is not None:
            return self.rows_per_index * (len(step) if names_records(step) else 1)
        if not names_records(step):
            raise ValueError(
                f"the Poisson sampler yields {type(step).__name__}, which names no records; yield arrays of indices, or"
                " declare rows_per_index on it"
            )
        return len(step)

    def units(self, step: Any) -> int:
        """Units of privacy in a step, for every model of a stack."""
        return self.rows(step) // self.rows_per_unit

    def some(self, step: Any, units: Sequence[int]) -> Any:
        """The step of those units alone."""
        columns = [unit * self.rows_per_unit + row for unit in units for row in range(self.rows_per_unit)]
        if _is_stack_step(step):
            return step[0][:, columns], step[1][:, columns]
        if self.rows_per_index is not None:
            return Part(step, tuple(columns))
        return [step[column] for column in columns] if isinstance(step, list | tuple) else step[columns]

    def batch(self, step: Any) -> Any:
        """The batch of a step, as training_step gets it."""
        return self.transfer(self.collated(step))

    def collated(self, step: Any) -> Any:
        """The batch before any hook of the user's."""
        if not isinstance(step, Part):
            return self.make(step)
        first, last = step.columns[0], step.columns[-1]
        return part(self.make(step.step), first, last + 1, of=(self.rows(step.step),))

    def digest(self, step: Any, collated: Any) -> int:
        """63 bits of the content of a step's batch; no device is waited for where its values are on the host."""
        return digest(collated if self.on_host is None else self.on_host(step))

    def check_rows(self, batch: Any, dimensions: int, of: Any = None) -> None:
        """Checks that a batch, of the step that is being trained on unless another is given, has the rows asked for.

        Raises:
            ValueError: if it leads with another number.
        """
        step = self.step if of is None else of
        if step is None:
            return
        wanted, there = self.rows(step), batch_shape(batch, dimensions)[-1]
        tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim >= dimensions]
        leading = {int(leaf.shape[dimensions - 1]) for leaf in tensors}
        several = any(rows > wanted > 0 and rows % wanted == 0 for rows in leading)
        if there != wanted and (several or wanted not in leading):  # a constant, or time, may stand first
            raise ValueError(
                f"a batch leads with {there} rows where {wanted} were asked for, so that records count more than once"
                " or not at all; make one row of every record in collate_fn and batch hooks, and set augmentations= for"
                " several views of a record, groups= for several records of a person"
            )


def digest(batch: Any) -> int:
    """63 bits of the content of a batch: what random numbers of a record are keyed by, so that no others matter."""
    state = hashlib.blake2b(digest_size=8)
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.layout != torch.strided:
            leaf = leaf.detach().to_dense()
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            state.update(np.ascontiguousarray(leaf).tobytes())
        elif isinstance(leaf, Tensor):
            state.update(content(leaf))
        else:
            state.update(repr(leaf).encode())
    return int.from_bytes(state.digest()) >> 1


def foreign_steps(sampler: Any) -> list[Any]:
    """Some steps of a copy of a foreign sampler, which itself stays where it is."""
    try:
        copied = copy.deepcopy(sampler)
    except Exception:  # whatever an object raises that cannot be copied
        copied = sampler
    return list(itertools.islice(iter(copied), WHOLE_STEPS))


def names_records(step: Any) -> bool:
    """Form of a step: a list of indices, rather than one thing that stands for a whole batch."""
    return isinstance(step, Sequence | np.ndarray | Tensor) and not isinstance(step, str)


def _is_stack_step(step: Any) -> bool:
    pair = isinstance(step, tuple) and len(step) == 2
    return pair and all(isinstance(each, np.ndarray) and each.ndim == 2 for each in step)


MAX_CANDIDATE_UNITS = 2048
"""Units that are looked at, at most."""
AT_ONCE = 64
"""Number of these in memory at the same time."""


def diverse(records: FitRecords, step: Any, limit: int, dimensions: int) -> list[int]:
    """Numbers of the units of a step, at most `limit`, that stand for all: half of them at random, then the rarest.

    Args:
        records: makes their batches.
        step: of candidates, in random order.
        limit: how many to choose.
        dimensions: 2 for a stack, of which the first model's records count, else 1.
    """
    units = records.units(step)
    if units <= limit:
        return list(range(units))
    shown = [
        _features(records.collated(records.some(step, range(start, min(start + AT_ONCE, units)))), dimensions)
        for start in range(0, units, AT_ONCE)
    ]
    columns = min(len(part[0]) for part in shown)
    orders = []
    for place in range(columns):
        rows = np.concatenate([part[0][place] for part in shown])
        values = rows.reshape(units, -1)[:, 0]
        orders.append(_rarest(values) if shown[0][1][place] else _extremes(values))
    spread = np.linspace(0, units - 1, limit // 2).astype(int).tolist()
    ranked = itertools.chain(spread, _in_turn([*orders, np.arange(units)]))
    return sorted(itertools.islice(dict.fromkeys(ranked), limit))


def _features(batch: Any, dimensions: int) -> tuple[list[Float64[np.ndarray, " rows"]], list[bool]]:
    """One number of every row for each tensor of a batch, and whether it names a kind rather than a size.

    A label stands for itself; of many whole numbers or a mask those that are not zero are counted; of many real ones
    the norm is taken.
    """
    values, kinds = [], []
    shape: tuple[int, ...] = ()
    for leaf in leaves(batch):
        if not isinstance(leaf, Tensor) or leaf.ndim < dimensions:
            continue
        leaf = leaf[0] if dimensions == 2 else leaf
        shape = shape or leaf.shape[:1]
        if leaf.shape[:1] != shape:
            continue
        rows = leaf.detach().cpu().reshape(len(leaf), -1)
        single, whole = rows.shape[1] == 1, not rows.is_floating_point() and not rows.is_complex()
        number = rows[:, 0].double() if single else (rows != 0).sum(1).double() if whole else rows.double().norm(dim=1)
        values.append(number.nan_to_num().numpy())
        kinds.append(single and whole)
    return values, kinds


def _rarest(values: Float64[np.ndarray, " units"]) -> Int64[np.ndarray, " units"]:
    """One of each kind in turn, beginning with the kind that has fewest."""
    _, kind, count = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(kind, kind="stable")
    starts = np.cumsum(count) - count
    turn = np.empty(len(values), dtype=np.int64)
    turn[order] = np.arange(len(values)) - starts[kind[order]]
    return np.lexsort((count[kind], turn))


def _extremes(values: Float64[np.ndarray, " units"]) -> Int64[np.ndarray, " units"]:
    """Largest, smallest, second largest, …"""
    order = np.argsort(values, kind="stable")
    both = np.stack([order[::-1], order])
    return both.T.ravel()[: len(values)]


def _in_turn(orders: list[Int64[np.ndarray, " units"]]) -> Iterator[int]:
    for places in zip(*orders, strict=True):
        yield from map(int, places)
