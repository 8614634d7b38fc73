"""Poisson steps by counters, and the empty batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from palisade.data.secret import Secret
from palisade.data.units import SingleRecords
from palisade.defenses.dp_sgd.sampling import PoissonGather, PoissonSteps

TEST_SECRET = Secret.from_text("test")


def steps(done: int, model: int = 0, **settings: Any) -> list[list[int]]:
    units = SingleRecords(records=50)
    return list(
        PoissonSteps(units=units, rate=0.1, steps=6, secret=TEST_SECRET, model=model, done=lambda: done, **settings)
    )


def test_step_depends_on_secret_model_and_counter_only() -> None:
    assert len(steps(0)) == 6
    assert steps(0) == steps(0)
    assert steps(0)[4:] == steps(4)[:2]
    assert steps(0) != steps(0, model=1)


def test_processes_share_the_step_of_one() -> None:
    shares = [steps(0, rank=rank, world_size=2) for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == steps(0)


def test_empty_batch_has_the_form_of_a_full_one() -> None:
    gather = PoissonGather(DataLoader(TensorDataset(torch.ones(4, 2), torch.zeros(4)), batch_size=2))
    assert [tensor.shape for tensor in gather[[]]] == [(0, 2), (0,)]
    assert [tensor.shape for tensor in gather[[3, 1]]] == [(2, 2), (2,)]
    assert len(gather) == 4
