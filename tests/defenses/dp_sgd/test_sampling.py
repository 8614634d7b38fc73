"""Poisson steps by counters, and batches of any form cut into parts."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from datamodules.secret import Secret
from datamodules.units import SingleRecords
from defenses.dp_sgd.batches import batch_shape, part
from defenses.dp_sgd.sampling import Gather, PoissonSteps

SECRET = Secret.from_text("test")
Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Both:
    x: Any
    y: Any


def steps(done: int, model: int = 0, **settings: Any) -> list[list[int]]:
    units = SingleRecords(records=50)
    return list(PoissonSteps(units=units, rate=0.1, steps=6, secret=SECRET, model=model, done=lambda: done, **settings))


def test_step_depends_on_secret_model_and_counter_only() -> None:
    assert len(steps(0)) == 6
    assert steps(0) == steps(0)
    assert steps(0)[4:] == steps(4)[:2]
    assert steps(0) != steps(0, model=1)


def test_processes_share_the_step_of_one() -> None:
    shares = [steps(0, rank=rank, world_size=2) for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == steps(0)


@pytest.mark.parametrize(
    "form",
    [
        tuple,
        list,
        lambda parts: Pair(*parts),
        lambda parts: Both(*parts),
        lambda parts: dict(zip("xy", parts, strict=True)),
    ],
)
def test_batches_of_any_form(form: Any) -> None:
    batch = form([torch.arange(12).view(3, 4), torch.arange(3)])
    assert batch_shape(batch, 1) == (3,) and batch_shape(batch, 2) == (3, 4)
    cut = part(batch, 1, 2, of=(3,))
    assert type(cut) is type(batch) and batch_shape(cut, 2) == (1, 4)


def test_part_of_a_stack_and_of_what_is_no_record() -> None:
    x, weight, name = part([torch.arange(12).view(2, 6), torch.ones(6), "name"], 1, 3, of=(2, 6))
    assert x.tolist() == [[1, 2], [7, 8]] and weight.shape == (6,) and name == "name"


def test_part_of_records_that_are_no_tensors() -> None:
    targets = [{"boxes": torch.ones(number + 1, 4)} for number in range(5)]
    x, cut = part((torch.arange(5), targets), 1, 3, of=(5,))
    assert x.tolist() == [1, 2] and [id(target) for target in cut] == [id(target) for target in targets[1:3]]
    pair = part((torch.arange(2), torch.arange(2)), 0, 1, of=(2,))  # two tensors are not two records
    assert [tensor.tolist() for tensor in pair] == [[0], [0]]


def test_empty_batch_has_the_form_of_a_full_one() -> None:
    gather = Gather(DataLoader(TensorDataset(torch.ones(4, 2), torch.zeros(4)), batch_size=2))
    assert [tensor.shape for tensor in gather[[]]] == [(0, 2), (0,)]
    assert [tensor.shape for tensor in gather[[3, 1]]] == [(2, 2), (2,)]
    assert len(gather) == 4
