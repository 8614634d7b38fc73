"""The company of the first check holds what differs: rare labels, long and empty records, large and small ones."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palisade.defenses.dp_sgd.records import FitRecords, diverse

RECORD_COUNT, MAX_CHOSEN = 2000, 128


def chosen(*tensors: Tensor, limit: int = MAX_CHOSEN) -> list[int]:
    records = FitRecords(
        lambda step: [tensor[step] for tensor in tensors],
        transfer=lambda batch: batch,
        rows_per_unit=1,
        waiting=deque(),
        first=lambda units, number: list(range(units)),
    )
    return diverse(records, list(range(len(tensors[0]))), limit, 1)


def inputs() -> Tensor:
    return torch.randn(RECORD_COUNT, 6, generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    return torch.zeros(RECORD_COUNT, dtype=torch.long)


@pytest.mark.parametrize("record", [0, 1, 777, RECORD_COUNT - 1])
def test_a_rare_label(record: int) -> None:
    y = labels()
    y[record] = 3
    assert record in chosen(inputs(), y)


@pytest.mark.parametrize("record", [3, 1234])
@pytest.mark.parametrize("factor", [50.0, 0.0])
def test_the_largest_and_the_smallest(record: int, factor: float) -> None:
    x = inputs()
    x[record] *= factor
    assert record in chosen(x, labels())


@pytest.mark.parametrize("record", [3, 1234])
@pytest.mark.parametrize("length", [20, 0])
def test_the_longest_and_the_shortest(record: int, length: int) -> None:
    mask = torch.zeros(RECORD_COUNT, 20, dtype=torch.bool)
    mask[:, :5] = True
    mask[record] = torch.arange(20) < length
    assert record in chosen(torch.ones(RECORD_COUNT, 20, dtype=torch.long), mask)
    assert record in chosen(mask.long(), labels())


def test_every_label_of_many_and_records_at_random_besides() -> None:
    y = torch.arange(RECORD_COUNT) % 10
    y[:20] = torch.arange(10, 30)
    rows = chosen(inputs(), y)
    assert set(y[rows].tolist()) == set(range(30))
    assert len(rows) == len(set(rows)) == MAX_CHOSEN and rows == sorted(rows)
    spread = np.histogram(rows, bins=8, range=(0, RECORD_COUNT))[0]
    assert spread.min() >= MAX_CHOSEN // 32


def test_few_records_are_all_taken() -> None:
    assert chosen(inputs()[:100], labels()[:100]) == list(range(100))


def test_what_is_no_tensor_or_not_a_number() -> None:
    x = inputs()
    x[5] = float("nan")
    assert len(chosen(x, labels())) == MAX_CHOSEN
    odd: Any = torch.zeros(())
    records = FitRecords(
        lambda step: {"x": x[step], "name": "all", "scale": odd},
        transfer=lambda batch: batch,
        rows_per_unit=1,
        waiting=deque(),
        first=lambda units, number: [],
    )
    assert len(diverse(records, list(range(RECORD_COUNT)), MAX_CHOSEN, 1)) == MAX_CHOSEN


def test_records_of_a_stack() -> None:
    index = np.stack([np.arange(300), np.arange(300)[::-1]])
    y = torch.zeros(300, dtype=torch.long)
    y[41] = 1
    records = FitRecords(
        lambda step: [y[torch.from_numpy(np.ascontiguousarray(step[0]))]],
        transfer=lambda batch: batch,
        rows_per_unit=1,
        waiting=deque(),
        first=lambda units, number: [],
    )
    assert 41 in diverse(records, (index, np.ones_like(index, dtype=bool)), MAX_CHOSEN, 2)
