"""Losses that couple records are found before training."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from defenses.dp_sgd.probe import check_separable

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1] * 4)


def batch_of(records: list[int]) -> tuple[Tensor, Tensor]:
    return X[records], Y[records]


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2))
        self.steps = 0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


class Sum(Module):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, reduction="sum")


class Divided(Sum):
    loss_divisor = 7.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().loss(logits, y) / 7.0


class Centered(Module):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().loss(logits - logits.mean(0), y)


class Mixed(Module):
    """Mixup inside the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((0.7 * x + 0.3 * x[torch.randperm(len(x))], y), batch_idx)


class Weighted(Module):
    """Divides by the sum of the weights of the batch's classes."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, weight=torch.tensor([1.0, 5.0]))


class Buffered(Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.mean += batch[0].mean(0)
        return super().training_step(batch, batch_idx)


class Noisy(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch[0] + torch.randn_like(batch[0]), batch[1]), batch_idx)


class Needy(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise RuntimeError("private detail")


@pytest.mark.parametrize("kind", [Module, Divided])
def test_accepts_losses_of_single_records_and_leaves_no_trace(kind: type[Module]) -> None:
    module, state = kind(), torch.get_rng_state()
    assert check_separable(module, batch_of, 12) is None
    assert module.steps == 0 and module.net[0].weight.grad is None and module.net[1].training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Sum(), "training_step returns the sum of the records' losses; return their mean, or set loss_divisor"),
        (Centered(), "training_step couples records: a record's gradient changes with the others in its batch"),
        (Mixed(), "training_step couples records"),
        (Weighted(), "training_step couples records"),
        (Buffered(), "buffer mean is updated from the records in forward; ε does not cover it, remove it"),
    ],
)
def test_refusals(module: Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_separable(module, batch_of, 12)


def test_random_losses_of_single_records_are_no_coupling() -> None:
    assert check_separable(Noisy(), batch_of, 12) is None


def test_batches_that_their_collate_function_couples() -> None:
    def centered(records: list[int]) -> Any:
        x, y = batch_of(records)
        return x - x.mean(0), y

    with pytest.raises(ValueError, match="training_step couples records"):
        check_separable(Module(), centered, 12)


def test_says_what_could_not_be_checked() -> None:
    assert "there is only one record" in str(check_separable(Module(), batch_of, 1))
    failed = str(check_separable(Needy(), batch_of, 12))
    assert "RuntimeError in training_step" in failed and "private" not in failed
    locked = Module()
    locked.lock = threading.Lock()
    assert "TypeError in training_step" in str(check_separable(locked, batch_of, 12))
