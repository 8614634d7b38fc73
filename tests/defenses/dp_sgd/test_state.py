"""State of a module beside its trained weights: seen when it changes, put back, refused where it follows records."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
import user_modules as user
from fit_parts import Parts
from torch import nn
from torch.nn import functional as F
from user_modules import Base, blobs, fitted

from palisade.defenses.dp_sgd.rules import PrivacyWarning
from palisade.defenses.dp_sgd.state import ModuleState, Saved, differing
from palisade.defenses.dp_sgd.watch import StateWatch


class Box:
    """An object of the user's."""

    def __init__(self) -> None:
        self.value, self.inner = 1.0, [torch.zeros(2)]


class Keeping(pl.LightningModule):
    """State of every kind that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("buffer", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.accuracy = torchmetrics.MeanMetric()
        self.plain, self.array, self.number, self.word = torch.zeros(2), np.zeros(2), 0, "a"
        self.list, self.deque = [torch.zeros(2)], deque([1.0], maxlen=3)
        self.dict, self.set, self.box = {"a": torch.zeros(2)}, {1}, Box()
        self.nested = {"a": [Box()]}
        self.lock = threading.Lock()


def at(path: str) -> Any:
    """A change of what stands at a path."""

    def change(module: Any) -> None:
        exec(path, {"m": module, "torch": torch, "nn": nn})

    return pytest.param(change, id=path)


SEEN_CHANGES = [
    at("m.buffer.add_(1)"),
    at("m.buffer = m.buffer + 1"),
    at("m.hidden.mul_(0).add_(2)"),
    at("m.frozen.add_(1)"),
    at("m.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)"),
    at("m.plain.add_(1)"),
    at("m.plain = m.plain + 1"),
    at("m.number += 1"),
    at("m.word = 'b'"),
    at("m.array = m.array + 1"),
    at("m.list.append(1)"),
    at("m.list[-1].add_(1)"),
    at("m.deque.append(2.0)"),
    at("m.dict['b'] = 1"),
    at("m.set.add(2)"),
    at("m.box.value = 2.0"),
    at("m.box = type(m.box)(); m.box.value = 3.0"),
    at("m.new = 3"),
    at("del m.number"),
]
UNSEEN_CHANGES = [  # only their values show these
    at("m.buffer.data.add_(1)"),
    at("m.frozen.data = torch.zeros(2)"),
    at("m.plain.data.add_(1)"),
    at("m.array += 1"),
    at("m.dict['a'].add_(1)"),
    at("m.box.inner[0].add_(1)"),
    at("m.nested['a'][0].value = 5.0"),
]


@pytest.mark.parametrize("change", SEEN_CHANGES)
@torch.no_grad()
def test_cheap_marks_show_a_change(change: Any) -> None:
    state = ModuleState(module := Keeping())
    before = state.sign()
    assert state.sign() == before
    change(module)
    assert state.sign() != before


@pytest.mark.parametrize("change", [*SEEN_CHANGES, *UNSEEN_CHANGES])
@torch.no_grad()
def test_values_name_a_change_and_are_put_back(change: Any) -> None:
    state = ModuleState(module := Keeping())
    before, held = state.values(), (module.list, module.dict, module.box, module.buffer, module.array)
    saved = state.save()
    assert not differing(before, state.values())
    for _ in range(2):  # again and again
        change(module)
        assert len(differing(before, state.values())) == 1
        saved.restore()
        assert not differing(before, state.values()) and not saved.changed()[1].any()
    assert module.list is held[0] and module.dict is held[1] and module.box is held[2] and module.buffer is held[3]


def changed_names(saved: Saved) -> list[str]:
    return [name for name, mark in zip(*saved.changed(), strict=True) if mark]


@torch.no_grad()
def test_trained_weights_are_state_too() -> None:
    state = ModuleState(module := Keeping())
    saved, before, sign = state.save(), state.values(), state.weights_sign()
    module.layer.weight.add_(1)
    assert state.weights_sign() != sign and differing(before, state.values()) == ["layer.weight"]
    assert changed_names(saved) == ["layer.weight"] and state.sign() == ModuleState(module).sign()
    saved.restore()
    assert not differing(before, state.values())


def test_metrics_are_put_back_but_never_compared() -> None:
    state = ModuleState(module := Keeping())
    saved, before, sign = state.save(), state.values(), state.sign()
    module.accuracy.update(3.0)
    assert state.sign() == sign and not differing(before, state.values())
    saved.restore()
    assert module.accuracy.weight == 0


def test_what_cannot_be_copied_stays() -> None:
    state = ModuleState(module := Keeping())
    lock = module.lock
    state.save().restore()
    assert module.lock is lock


def test_digests_see_what_marks_do_not() -> None:
    state = ModuleState(module := Keeping())
    before, sign = state.digests(), state.sign()
    module.buffer.data.add_(1)
    assert state.sign() == sign and state.digests() != before
    assert {name for name, value in before.items() if state.digests()[name] != value} == {"buffer"}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_digests_of_every_precision_and_shape(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    module = Keeping()
    module.register_buffer("buffer", torch.zeros(shape, dtype=kind))
    state = ModuleState(module)
    before = state.digests()
    module.buffer.data.add_(torch.ones(shape, dtype=kind))
    assert (state.digests() != before) == (module.buffer.numel() > 0)


def test_what_lasts_is_what_goes_into_the_file_or_is_a_parameter() -> None:
    state = ModuleState(Keeping())
    assert state.lasting("buffer") and state.lasting("frozen") and state.lasting("layer.weight")
    assert not any(map(state.lasting, ("hidden", "plain", "number", "list")))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 1.0]), True),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), False),
        (torch.zeros(2), torch.zeros(3), False),
        (np.array([math.nan]), np.array([math.nan]), True),
        (math.nan, math.nan, True),
        (1, 1.0, False),
        ("a", "a", True),
    ],
)
def test_equal_values(one: Any, other: Any, alike: bool) -> None:
    assert (differing({"x": {"": one}}, {"x": {"": other}}) == []) == alike


def test_a_name_that_comes_or_goes_is_a_difference() -> None:
    assert differing({"a": {}}, {}) == differing({}, {"a": {}}) == ["a"]
    assert differing({"a": {"0": 1}}, {"a": {"0": 1, "1": 1}}) == ["a"]


# What two batches show.


def looked(module: Any, steps: int = 1) -> list[str]:
    parts = Parts(module)
    watch = StateWatch(parts.rehearsal, parts.records, parts.chooser.make("fast"))
    return watch.look(parts.step)


class Clocks(user.Counting):
    """Counters and clocks of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.MeanMetric()
        self.history: list[int] = []
        self.box = Box()

    def log(self, *_: Any, **__: Any) -> None: ...

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.clock += 1
        self.history.append(self.seen)
        self.box.value *= 0.5
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.accuracy.update(loss.detach())
        return loss


def test_counters_and_clocks_are_allowed_without_a_word() -> None:
    assert looked(Clocks()) == []


class Unread(Base):
    """Keeps what it never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


def test_what_follows_the_records_but_is_not_read_is_a_caution() -> None:
    (caution,) = looked(Unread())
    assert caution.startswith("losses of the module follows the records, and ε does not cover it")


def test_what_follows_the_records_and_is_read_is_refused() -> None:
    class Read(Unread):
        def forward(self, x):
            return self.b(x * (1 + sum(self.losses)))

    with pytest.raises(ValueError, match="losses of the module follows the records without noise, and training_step"):
        looked(Read())


def test_what_goes_into_the_file_is_refused_whether_read_or_not() -> None:
    class Buffered(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(6))

        def on_train_epoch_end(self) -> None:
            self.sum += self.last

        def training_step(self, batch, batch_idx):
            self.last = batch[0].sum(0)
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"sum is set from the records without noise and goes into .*remove it"):
        looked(Buffered())


def test_looking_at_state_leaves_no_trace() -> None:
    module = Clocks()
    looked(module)
    assert module.seen == 0 and module.clock == 0 and module.history == [] and module.box.value == 1.0
    assert all(parameter.grad is None for parameter in module.parameters())


# In a fit.


def printed_lines(make: Any, **settings: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(make, blobs(), size=12, **settings)
    return [str(each.message) for each in caught if issubclass(each.category, PrivacyWarning)]


@pytest.mark.parametrize("way", ["fast", "alone"])
def test_a_fit_says_nothing_of_counters_and_one_word_of_stored_losses(way: str) -> None:
    assert not [
        line for line in printed_lines(user.Counting, steps=3, per_record=way) if "seen" in line or "clock" in line
    ]
    assert len([line for line in printed_lines(Unread, steps=3, per_record=way) if "losses of the module" in line]) == 1


class MemoryFromTheSecondEpochOn(Base):
    """State that no two batches of the first step show."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(6))

    def training_step(self, batch, batch_idx):
        if self.current_epoch >= 1:
            self.memory += batch[0].detach().sum(0)
        return super().training_step(batch, batch_idx)


class OfACallback(pl.Callback):
    """Changes the module from outside."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        module.memory.add_(batch[0].sum(0))


class Remembering(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(6))


class AtTheEnd(Remembering):
    def on_train_end(self) -> None:
        self.memory.data += 1


class Hidden(Remembering):
    """By `.data`, in a hook that no rehearsal runs."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()
        self.memory.data.add_(self.b.weight.detach().sum(0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "callbacks"),
    [(MemoryFromTheSecondEpochOn, []), (Remembering, [OfACallback]), (AtTheEnd, []), (Hidden, [])],
    ids=["later", "callback", "at the end", "hidden"],
)
def test_later_changes_are_noticed(make: Any, callbacks: Any) -> None:
    with pytest.raises(ValueError, match=r"memory .*ε does not cover it, (remove it|keep it fixed)"):
        fitted(make, blobs(), size=12, steps=4, callbacks=callbacks)


@pytest.mark.filterwarnings("ignore")
def test_weights_are_changed_by_the_optimizer_alone() -> None:
    class Shrinking(Base):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            if self.global_step >= 1:
                with torch.no_grad():
                    self.b.weight.mul_(0.9)

        def training_step(self, batch, batch_idx):
            if self.global_step >= 2:
                self.b.weight.data.mul_(0.9)
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="changes trained weights by itself, without noise; leave them to the opt"):
        fitted(Shrinking, blobs(), size=12, steps=4)


def check_state_is_watched() -> None:
    """A buffer that follows the records in a callback's hook, which no gradient shows."""
    refused = ""
    try:
        fitted(Remembering, blobs(), size=12, steps=4, callbacks=[OfACallback])
    except ValueError as error:
        refused = str(error)
    assert "memory" in refused and "ε does not cover it" in refused


@pytest.mark.filterwarnings("ignore")
def test_state_is_watched() -> None:
    check_state_is_watched()
