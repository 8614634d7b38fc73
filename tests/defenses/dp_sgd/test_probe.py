"""Losses that couple records are found before training."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from defenses.dp_sgd.probe import check_separable

BATCH = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1]))


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
    assert check_separable(module, BATCH) is None
    assert module.steps == 0 and module.net[0].weight.grad is None and module.net[1].training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Sum(), "training_step returns the sum of the records' losses; return their mean, or set loss_divisor"),
        (Centered(), "training_step couples records: a record's gradient changes with the others in its batch"),
        (Buffered(), "buffer mean is updated from the records in forward; ε does not cover it, remove it"),
    ],
)
def test_refusals(module: Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_separable(module, BATCH)


def test_says_what_could_not_be_checked() -> None:
    assert "training_step is random beyond dropout" in str(check_separable(Noisy(), BATCH))
    assert "there is only one record" in str(check_separable(Module(), (BATCH[0][:1], BATCH[1][:1])))
    failed = str(check_separable(Needy(), BATCH))
    assert "RuntimeError in training_step" in failed and "private" not in failed
