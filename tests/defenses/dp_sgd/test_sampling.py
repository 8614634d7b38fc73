"""Poisson steps by counters, and batches of any form cut to any size."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from datamodules.secret import Secret
from defenses.dp_sgd.sampling import Gather, PoissonSteps, batch_shape, first_records

SECRET = Secret.from_text("test")
Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Both:
    x: Any
    y: Any


def steps(done: int, model: int = 0) -> list[list[int]]:
    settings: Any = {"records": 50, "rate": 0.1, "steps": 6, "secret": SECRET, "model": model}
    return list(PoissonSteps(**settings, done=lambda: done))


def test_step_depends_on_secret_model_and_counter_only() -> None:
    assert len(steps(0)) == 6
    assert steps(0) == steps(0)
    assert steps(0)[4:] == steps(4)[:2]
    assert steps(0) != steps(0, model=1)


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
    cut = first_records(batch, 1, of=3)
    assert type(cut) is type(batch) and batch_shape(cut, 2) == (1, 4)


def test_empty_batch_has_the_form_of_a_full_one() -> None:
    gather = Gather(DataLoader(TensorDataset(torch.ones(4, 2), torch.zeros(4)), batch_size=2))
    assert [part.shape for part in gather[[]]] == [(0, 2), (0,)]
    assert [part.shape for part in gather[[3, 1]]] == [(2, 2), (2,)]
    assert len(gather) == 4
