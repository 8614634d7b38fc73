"""Logical batches in physical parts, several rows for a unit of privacy, groups as units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_callback import TEST_SECRET, Arrays, Module, Plain, blobs, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from palisade.data.units import Groups
from palisade.defenses.dp_sgd import DPSGD

pytestmark = pytest.mark.filterwarnings("ignore")


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def check_micro_batches() -> None:
    """Parts of 7 give the weights, the ε and the number of steps of whole batches, noise included."""
    settings: Any = {"noise_multiplier": 1.0, "secret": TEST_SECRET}
    whole, parts = DPSGD(**settings), DPSGD(**settings, max_physical_batch=7)
    expected, fitted_in_parts = fit(whole, max_epochs=1), fit(parts, max_epochs=1)
    assert whole.steps == parts.steps == 10 and whole.epsilon() == parts.epsilon()
    assert len(fitted_in_parts.losses) > 2 * len(expected.losses)
    torch.testing.assert_close(weights(fitted_in_parts), weights(expected), atol=1e-5, rtol=1e-5)


def test_micro_batches() -> None:
    check_micro_batches()


def test_micro_batches_of_a_stack() -> None:
    whole, _ = Arrays().train([3, 4], 1.0)
    parts, _ = Arrays().train([3, 4], 1.0, max_physical_batch=4)
    for one, other in zip(whole, parts, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)


def test_losses_in_a_dictionary() -> None:
    class Wrapped(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx)}

    Wrapped.__qualname__, Wrapped.__module__ = Module.__qualname__, Module.__module__  # part of the noise's key
    settings: Any = {"noise_multiplier": 1.0, "secret": TEST_SECRET, "max_physical_batch": 7}
    expected = fit(DPSGD(**settings), max_epochs=1)
    torch.manual_seed(1)
    assert torch.equal(weights(fit(DPSGD(**settings), Wrapped(), max_epochs=1)), weights(expected))


class Shifted(Dataset[Any]):
    """Every look at a record gives another augmentation of it."""

    def __init__(self) -> None:
        self.looks = 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        self.looks += 1
        return torch.full((8,), 1.0 + self.looks % 2), torch.tensor(index % 3)


@pytest.mark.parametrize("at_once", [None, 5])
def test_augmentations_are_averaged_before_clipping(at_once: int | None) -> None:
    """Two looks at 1 and 2 are one record of gradient 1.5 for a linear loss, clipped as one."""

    class Linear(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self.my_net(batch[0]) * torch.tensor([1.0, 0.0, 0.0])).sum(1).mean()

    def moved(clip: float) -> float:
        module = Linear(nn.Linear(8, 3, bias=False))
        start = weights(module)
        callback = DPSGD(
            noise_multiplier=0, max_grad_norm=clip, augmentations=2, max_physical_batch=at_once, secret=TEST_SECRET
        )
        fit(callback, module, DataLoader(Shifted(), batch_size=40), max_epochs=1)
        assert callback.statement.augmentations == 2 and callback.statement.records_per_unit == 1
        return float((weights(module) - start).norm())

    norm = 1.5 * 8**0.5
    assert moved(clip=100.0) == pytest.approx(norm, rel=1e-4)
    assert moved(clip=1.0) == pytest.approx(1.0, rel=1e-4)


def test_a_group_moves_the_sum_by_at_most_c() -> None:
    """Forty records of one person and one of another: with q = 1 the update is the sum of two clipped gradients."""
    data = TensorDataset(torch.cat([torch.ones(40, 8), -torch.ones(1, 8)]), torch.zeros(41, dtype=torch.long))
    module = Plain(nn.Linear(8, 3, bias=False))
    nn.init.zeros_(module.my_net.weight)
    callback = DPSGD(
        noise_multiplier=0,
        max_grad_norm=0.1,
        groups=["ann"] * 40 + ["bob"],
        records_per_group=4,
        delta=0.1,
        secret=TEST_SECRET,
    )
    fit(callback, module, DataLoader(data, batch_size=2), max_epochs=1)
    assert weights(module).norm() < 1e-6  # opposite records of weight 1 : 1, not 40 : 1
    assert callback.statement.public_size == 2 and callback.statement.sampling_rate == 1.0


def test_statement_of_groups() -> None:
    callback = DPSGD(noise_multiplier=2.0, groups=np.arange(240) // 4, records_per_group=3, secret=TEST_SECRET)
    fit(callback)
    statement = callback.statement
    assert statement.unit == "group" and statement.neighboring == "add/remove one group"
    assert statement.public_size == 60 and statement.sampling_rate == 24 / 60 and statement.records_per_unit == 3
    assert statement.delta == 60**-1.1 and "per group (add/remove one group)" in statement.sentence()


def test_no_more_rows_of_a_group_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    rows = Groups.rows
    monkeypatch.setattr(
        Groups,
        "rows",
        lambda self, taken, model, step: drawn.append((len(taken), out := rows(self, taken, model, step))) or out,
    )
    fit(
        DPSGD(noise_multiplier=2.0, groups=np.arange(240) // 80, records_per_group=3, delta=0.1),
        loader=DataLoader(blobs(), 1),
    )
    for taken, out in drawn:
        assert len(out) == 3 * taken and np.unique(out // 80).size == taken


def test_own_samplers_decide_units_themselves() -> None:
    with pytest.raises(ValueError, match="sampler=Poisson"):
        Arrays().train([0], 1.0, augmentations=2)
