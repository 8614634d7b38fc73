"""Choice of records that differ in labels, lengths, masks and size: what couples records shows between these."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from palisade.defenses.dp_sgd.microbatches import leaves
from palisade.defenses.dp_sgd.records import FitRecords

CANDIDATES = 2048
"""Units that are looked at, at most."""
AT_ONCE = 64
"""Of these, how many are in memory at the same time."""


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
