"""Records that are coupled are found, rounding is not taken for that, and looking leaves no trace."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import user_modules as user
from fit_parts import Parts
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from user_modules import TEST_SECRET, Base, blobs, fitted, slow_but

from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.checks import (
    COST_OF_A_RECORD_ALONE,
    EPOCH_BUDGET,
    FIRST_STEPS,
    MAX_RECORDS_PER_LOOK,
    STEP_BUDGET,
    Pace,
    alone_cost,
    chosen,
)
from palisade.defenses.dp_sgd.rehearsal import random_state
from palisade.targets.networks import CNN

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(Base):
    """Dropout, a count of steps and logging, with a loss of choice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU())
        self.b = nn.Linear(8, 3)
        self.steps, self.logged = 0, 0
        self.register_buffer("seen", torch.zeros(()))

    def log(self, *_: Any, **__: Any) -> None:
        self.logged += 1

    def forward(self, x):
        return self.b(self.layers(x))

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.seen += 1
        loss = self.loss(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


class Divided(Module):
    loss_divisor = 7.0

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="sum") / 7.0


class Noisy(Module):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Plain(Base):
    """A loss of choice: a function of module, inputs and labels."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.__dict__["own_loss"] = loss

    def training_step(self, batch, batch_idx):
        return self.own_loss(self, *batch)


def trace(module: nn.Module) -> list[Any]:
    """Everything that a look must leave as it was."""
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    tensors = [value.clone() for value in module.state_dict().values()]
    attributes = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [tensors, gradients, [each.training for each in module.modules()], attributes, random_state()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("kind", [Module, Divided, Noisy])
@pytest.mark.parametrize("way", ["auto", "functional", "alone"])
def test_looking_leaves_no_trace(kind: Any, way: str) -> None:
    module = kind()
    module.b.weight.grad = torch.ones_like(module.b.weight)
    parts, before = Parts(module, per_record=way), trace(module)
    state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    parts.chooser.choose()
    parts.checks.losses_alike(parts.step, range(12))
    parts.checks.agree_in_double(parts.step, range(12))
    assert same(before, trace(module)) and module.logged == module.steps == 0
    assert random.getstate() == state[0] and (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002
    assert "forward" not in vars(module.b) and "training_step" not in vars(module)


def test_looking_leaves_no_trace_where_the_users_code_fails() -> None:
    class Failing(Module):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise RuntimeError("private detail")

    module = Failing()
    parts, before = Parts(module), trace(module)
    with pytest.raises(ValueError, match="training_step raised RuntimeError on a batch of one record") as refused:
        parts.chooser.choose()
    assert same(before, trace(module)) and "private" not in str(refused.value)


def test_what_could_not_be_checked_withdraws_the_guarantee() -> None:
    def needy(self, x, y):
        if len(x) < 4:
            raise RuntimeError("too few")
        return F.cross_entropy(self(x), y)

    choice = Parts(Plain(needy), unchecked=True).chooser.choose()
    assert (choice.way, choice.reason) == ("fast", "nothing could be checked")
    callback: list[DPSGD] = []

    class Keeping(Base):
        def on_train_end(self) -> None:
            callback.extend(each for each in self.trainer.callbacks if isinstance(each, DPSGD))

        def training_step(self, batch, batch_idx):
            return needy(self, *batch)

    fitted(Keeping, blobs(40), size=40, noise_multiplier=1.0, unchecked=True)
    claim = callback[0].statement
    assert not claim.guarantee and "unchecked=True" in claim.sentence()


# What is alike.


@pytest.mark.parametrize("seed", slow_but([0], range(4)))
@pytest.mark.parametrize("channels", [1, 3])
def test_rounding_of_convolutions_is_no_coupling(seed: int, channels: int) -> None:
    """Kernels for many images add up in another order than those for one."""
    torch.manual_seed(seed)
    images = TensorDataset(torch.randn(64, channels, 16, 16), torch.randint(10, (64,)))

    class Images(Base):
        def __init__(self) -> None:
            super().__init__()
            self.b = CNN(shape=(channels, 16, 16), classes=10)

    parts = Parts(Images(), images)
    assert parts.alike() and parts.chooser.choose().way == "fast"


def test_what_cannot_be_copied_needs_no_copy() -> None:
    module = Module()
    module.lock = threading.Lock()
    assert Parts(module).chooser.choose().way == "fast"


def test_rounding_is_separated_from_coupling_in_double_precision() -> None:
    """Both differ by 1e-4 in company; one of them is a multiple of what float32 rounds."""

    def by(factor: Any) -> Any:
        return lambda self, x, y: F.cross_entropy(self(x) * (1 + factor(x.dtype) * len(x)), y)

    rounding = Parts(Plain(by(lambda kind: 100 * torch.finfo(kind).eps)))
    assert not rounding.alike() and rounding.chooser.choose().way == "fast"
    coupling = Parts(Plain(by(lambda kind: 100 * torch.finfo(torch.float32).eps)))
    assert not coupling.alike() and not coupling.checks.agree_in_double(coupling.step, range(12))
    with pytest.raises(ValueError, match="couples records"):
        Parts(Plain(by(lambda kind: 1e-3))).chooser.choose()


def test_random_losses_of_single_records_are_no_coupling() -> None:
    chooser = Parts(Noisy()).chooser
    assert chooser.choose().way == "fast" and chooser.draws


# What is not.


def check_every_record(record: int, drawing: bool = False) -> None:
    """One of twelve records looks at the others; drawn random numbers are told from that."""

    def loss(self, x, y):
        x = x + 0.1 * torch.randn_like(x) if drawing else x
        marked = (y == 2).float()[:, None]
        return F.cross_entropy(self(x + marked * x.mean(0)), y)

    labels = torch.zeros(12, dtype=torch.long)
    labels[record] = 2
    parts = Parts(Plain(loss), TensorDataset(blobs().tensors[0], labels))
    assert not parts.alike()


@pytest.mark.parametrize("record", [0, 1, 5, 11])
@pytest.mark.parametrize("drawing", [False, True])
def test_every_record_is_compared(record: int, drawing: bool) -> None:
    check_every_record(record, drawing)


def test_small_differences_are_added_up() -> None:
    """128 records that are off by 9e-6 C in one direction move the sum by 1.15e-3 C."""
    data = TensorDataset(torch.ones(128, 6), torch.zeros(128, dtype=torch.long))

    def by(size: float) -> bool:
        module = Plain(lambda s, x, y: F.cross_entropy(s(x), y) * (1 + size * (len(x) > 1)))
        norm = user.looped(module, TensorDataset(*data[:1]), 1e9).norm()
        return Parts(module, data, clip=1.001 * float(norm)).alike()  # nothing is clipped, so nothing hides it

    assert by(0.0) and by(4e-6) and not by(9.5e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, x, y: F.cross_entropy(s(x) - s(x).mean(0), y),
        lambda s, x, y: F.cross_entropy(s(0.7 * x + 0.3 * x[torch.randperm(len(x))]), y),
        lambda s, x, y: F.cross_entropy(s(x), y, weight=torch.tensor([1.0, 5.0, 1.0])),
    ],
    ids=["centered", "mixed", "weighted"],
)
def test_losses_that_couple(loss: Any) -> None:
    with pytest.raises(ValueError, match="training_step couples records"):
        Parts(Plain(loss)).chooser.choose()


def test_a_sum_is_no_coupling_but_no_mean_either() -> None:
    chooser = Parts(Plain(lambda s, x, y: F.cross_entropy(s(x), y, reduction="sum"))).chooser
    with pytest.raises(ValueError, match="returns the sum of the records' losses; return their mean, or set loss_div"):
        chooser.choose()


def test_batches_that_their_collate_function_couples() -> None:
    parts = Parts(Base())
    make = parts.records.make
    parts.records.make = lambda step: [(batch := make(step))[0] - batch[0].mean(0), batch[1]]
    with pytest.raises(ValueError, match="training_step couples records"):
        parts.chooser.choose()


def test_where_a_layer_mixes_records_they_are_taken_alone() -> None:
    class Sorting(Base):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def training_step(self, batch, batch_idx):
            x, y = batch
            order = x[:, 0].argsort(descending=True)
            return F.cross_entropy(self.b(torch.tanh(self.a(x))[order]), y[order])

    choice = Parts(Sorting()).chooser.choose()
    assert choice.way in ("functional", "alone") and "mixes records" in choice.reason
    with pytest.raises(ValueError, match=r"per_record=fast: .*per_record=auto, or alone"):
        Parts(Sorting(), per_record="fast").chooser.choose()


def test_a_loss_that_agrees_by_chance_is_looked_at_elsewhere_too() -> None:
    """At the first weights, zero, classes weigh alike; there nothing shows that their weights couple."""

    class Zero(Base):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.b.bias)
            self.p = nn.Parameter(torch.ones(()))  # no layer of the fast way

        def training_step(self, batch, batch_idx):
            weight = torch.tensor([1.0, 50.0, 1.0])
            return F.cross_entropy(self.p * self(batch[0]), batch[1], weight=weight)

    with pytest.raises(ValueError, match="couples records: a batch's loss is not the mean of its records' losses"):
        Parts(Zero()).chooser.choose()


# How often.


def pace(**settings: Any) -> Pace:
    usual = {"parameters": 100_000, "batch_size": 256, "steps": 4000, "steps_per_epoch": 100, "drawing": False}
    return Pace(**{**usual, **settings})


@pytest.mark.parametrize("parameters", [1_000, 100_000, 5_000_000])
@pytest.mark.parametrize("batch_size", [16, 64, 256, 4096])
@pytest.mark.parametrize("drawing", [False, True])
def test_checks_cost_a_share_of_a_long_training(parameters: int, batch_size: int, drawing: bool) -> None:
    chosen_pace = pace(parameters=parameters, batch_size=batch_size, drawing=drawing)
    cost = alone_cost(parameters, batch_size)
    steps = sum(chosen_pace.due(step) for step in range(FIRST_STEPS, 4000))
    assert steps * (cost + drawing) <= 1.05 * STEP_BUDGET * 4000
    epochs = sum(chosen_pace.records(epoch) for epoch in range(1, 40))
    assert epochs * cost <= 2.05 * EPOCH_BUDGET * 4000


def test_first_steps_and_epochs_are_looked_at_most() -> None:
    usual = pace()
    assert all(usual.due(step) for step in range(FIRST_STEPS))
    assert 2 <= usual.records(2) <= MAX_RECORDS_PER_LOOK and usual.records(3) <= usual.records(4)
    assert pace(steps=30, steps_per_epoch=10).records(1) >= 2


def test_chance_of_missing_a_coupling() -> None:
    assert 0 < pace(steps=40_000).missed() < pace().missed() < pace(steps=100).missed() < 1
    assert pace().missed(0.1) < pace().missed(0.01)
    assert pace(steps=16, steps_per_epoch=16).missed(0.5) == pytest.approx(0.5**17)


def test_costs_between_entries_are_those_of_the_dearer_one() -> None:
    assert alone_cost(100_000, 256) == COST_OF_A_RECORD_ALONE[100_000][256] == alone_cost(999_999, 1000)
    assert (
        alone_cost(5, 3) == COST_OF_A_RECORD_ALONE[10_000][16]
        and alone_cost(10**9, 10**6) == COST_OF_A_RECORD_ALONE[10_000_000][4096]
    )


def test_who_is_looked_at_follows_from_the_secret_alone() -> None:
    seen = [chosen(TEST_SECRET, step, 8) for step in range(200)]
    assert set(seen) == set(range(8)) and seen == [chosen(TEST_SECRET, step, 8) for step in range(200)]
    assert seen != [chosen(TEST_SECRET.stage("other"), step, 8) for step in range(200)]


# During a fit.


def check_later_steps() -> None:
    """Records are coupled from the second step on, of twenty-four."""

    class Late(Base):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return F.cross_entropy(logits - (self.global_step >= 1) * logits.mean(0), batch[1])

    refused = ""
    try:
        fitted(Late, blobs(), size=12, steps=24)
    except ValueError as error:
        refused = str(error)
    assert "couples records from some step on" in refused


def test_later_steps_are_looked_at() -> None:
    check_later_steps()


@pytest.mark.parametrize("from_step", [1, 7, 15])
def test_every_first_step_is_looked_at(from_step: int) -> None:
    class Late(Base):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return F.cross_entropy(logits - (self.global_step >= from_step) * logits.mean(0), batch[1])

    steps: list[int] = []

    class Counting(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            steps.append(trainer.global_step)

    with pytest.raises(ValueError, match="couples records from some step on"):
        fitted(Late, blobs(), size=12, steps=20, callbacks=[Counting])
    assert len(steps) == from_step


def test_a_coupling_in_the_middle_of_an_epoch_is_detected() -> None:
    """At q = 1 every step is an epoch; here one epoch holds all steps, and companies come from the loader."""

    class Late(Base):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return F.cross_entropy(logits - (batch_idx >= 30) * logits.mean(0), batch[1])

    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)], **quiet
    )
    with pytest.raises(ValueError, match="couples records from some step on"):
        run.fit(Late(), DataLoader(blobs(800), batch_size=4))
    assert 30 <= run.global_step < 200


def test_records_are_looked_at_by_the_watch_with_dropout_too() -> None:
    class Late(Module):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return self.loss(logits - (self.global_step >= 3) * logits.mean(0), batch[1])

        log = Base.log

    with pytest.raises(ValueError, match="couples records from some step on"):
        fitted(Late, blobs(), size=12, steps=6)
