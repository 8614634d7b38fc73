"""Nothing beside the noised sum follows a record into the model, and nobody changes the sum before the noise.

Measured from outside, as in `test_sensitivity.py`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import user_modules as user
from torch import nn
from torch.nn import functional as F
from user_modules import Base, blobs, sensitivity, slow_but

pytestmark = pytest.mark.filterwarnings("ignore")


# What is learned beside the noise.


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))


def changing(place: str, change: Any) -> type[Base]:
    """A class of modules with a hook that changes something."""

    def training_step(self, batch, batch_idx):
        change(self, batch)
        return Base.training_step(self, batch, batch_idx)

    hooks = {
        "training_step": training_step,
        "on_train_batch_end": lambda self, outputs, batch, batch_idx: change(self, batch),
        "on_train_batch_start": lambda self, batch, batch_idx: change(self, batch),
        "on_train_epoch_end": lambda self: change(self, self.held),
        "optimizer_step": lambda self, e, i, optimizer, closure: (optimizer.step(closure), change(self, self.held)),
        "on_train_end": lambda self: change(self, self.held),
    }
    chosen = {place: hooks[place]}
    if place in ("on_train_epoch_end", "optimizer_step", "on_train_end"):

        def held(self, batch, batch_idx):
            self.__dict__["held"] = [leaf.clone() for leaf in batch]
            return Base.training_step(self, batch, batch_idx)

        chosen["training_step"] = held
    return type("Changing", (Hooked,), chosen)


def in_place(self, batch):
    self.mean.mul_(0.9).add_(0.1 * batch[0].mean(0))


def by_data(self, batch):
    self.mean.data.mul_(0.9).add_(0.1 * batch[0].mean(0))


def another(self, batch):
    self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)


HOOK_NAMES = ("training_step", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end", "optimizer_step")
CHANGE_KINDS = (in_place, by_data, another)
FEW_CASES = [
    *((place, "auto", in_place) for place in HOOK_NAMES),
    *((HOOK_NAMES[0], "alone", change) for change in CHANGE_KINDS),
]


@pytest.mark.parametrize(
    ("place", "way", "change"), slow_but(FEW_CASES, product(HOOK_NAMES, ("auto", "alone"), CHANGE_KINDS))
)
def test_buffers_that_follow_the_records(place: str, way: str, change: Any) -> None:
    with pytest.raises(ValueError, match=r"mean .*(remove it|leave it alone|keep it fixed)"):
        sensitivity(changing(place, change), blobs(), range(2), clip=0.3, steps=3, per_record=way)


class Prototypes(Base):
    def __init__(self) -> None:
        super().__init__()
        self.proto = nn.Parameter(torch.zeros(3, 6), requires_grad=False)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.proto.data.mul_(0.9).index_add_(0, batch[1], 0.1 * batch[0])
        return super().training_step(batch, batch_idx)


class FirstBatch(Base):
    done = False

    def training_step(self, batch, batch_idx):
        if not self.done:
            with torch.no_grad():
                self.b.weight.copy_(100 * batch[0].mean(0).repeat(3, 1))
            self.done = True
        return super().training_step(batch, batch_idx)


class RunningMean(Base):
    """A plain attribute of the first step moves the second."""

    still = 1

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(6)

    def training_step(self, batch, batch_idx):
        self.mean = 0.9 * self.mean + 10.0 * batch[0].detach().mean(0)
        return F.cross_entropy(self(batch[0] - self.mean), batch[1])


class RunningNumber(Base):
    """State in a number of Python in an object of the user's."""

    still = 1

    class Statistics:
        mean = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.statistics = self.Statistics()

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0] * (1 + self.statistics.mean)), batch[1])
        self.statistics.mean = 10 * float(batch[0].mean())
        return loss


class ByClass(Base):
    """A dictionary of the last inputs of every class."""

    still = 1

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[int, torch.Tensor] = {}

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x - self.last.get(0, torch.zeros(6))), y)
        for label in range(3):
            self.last[label] = 5 * x[y == label].sum(0)
        return loss


STATE_MODULES: dict[str, Any] = {
    "prototypes": (Prototypes, 1),
    "weights from the first batch": (FirstBatch, 1),
    "running mean": (RunningMean, 2),
    "running number": (RunningNumber, 2),
    "memory of classes": (ByClass, 2),
    "memory bank": (user.Bank, 2),
    "short memory": (user.Deque, 2),
}


@pytest.mark.parametrize("name", STATE_MODULES)
def test_state_that_follows_the_records(name: str) -> None:
    make, steps = STATE_MODULES[name]
    with pytest.raises(ValueError, match=r"remove it|keep it fixed|per_record=alone"):
        sensitivity(make, blobs(), range(2), clip=0.3, steps=steps)


@pytest.mark.parametrize("name", STATE_MODULES)
def test_state_does_not_reach_records_alone(name: str) -> None:
    make, steps = STATE_MODULES[name]
    try:
        sensitivity(make, blobs(), range(2), clip=0.3, steps=steps, per_record="alone")
    except ValueError as refused:
        assert any(way_out in str(refused) for way_out in ("remove it", "keep it fixed", "leave it alone"))


# Gradients in the hands of users.


class SharpnessAware(Base):
    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        closure()
        own = list(self.parameters())
        moves = [2.0 * p.grad / torch.stack([q.grad.norm() for q in own]).norm() for p in own]
        with torch.no_grad():
            for p, move in zip(own, moves, strict=True):
                p.add_(move)
        closure()
        with torch.no_grad():
            for p, move in zip(own, moves, strict=True):
                p.sub_(move)
        optimizer.step()


def by_hand(change: Any) -> type[Base]:
    """A class of modules under manual optimization that do something with gradients before the step."""

    def init(self):
        Base.__init__(self)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        change(self, optimizer, batch)

    def configure(self):
        self.__dict__["raw"] = torch.optim.SGD(self.parameters(), lr=1.0)
        return self.raw

    return type(
        "ByHand", (Base,), {"__init__": init, "training_step": training_step, "configure_optimizers": configure}
    )


def ten_times(self, optimizer, batch):
    for p in self.parameters():
        p.grad.data.mul_(10)
    optimizer.step()


def again(self, optimizer, batch):
    self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
    optimizer.step()


def own_step(self, optimizer, batch):
    with torch.no_grad():
        for p in self.parameters():
            p.sub_(10 * p.grad)
    optimizer.step()


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (SharpnessAware, "run one backward pass for every batch"),
        (by_hand(ten_times), "remove what changes them"),
        (by_hand(again), "run one backward pass for every batch"),
        (by_hand(own_step), "leave them to the optimizer|remove it or keep it fixed"),
        (
            by_hand(lambda self, optimizer, batch: (optimizer.step(), optimizer.step())),
            "take exactly one for every batch",
        ),
    ],
    ids=["sharpness-aware", "scaled", "twice", "own step", "two steps"],
)
def test_gradients_are_left_alone(make: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        sensitivity(make, blobs(), range(2), clip=0.3)


def test_the_users_own_handle_of_the_optimizer_steps_with_noise_too() -> None:
    try:
        assert sensitivity(by_hand(lambda self, optimizer, batch: self.raw.step()), blobs(), range(2), clip=0.3) > 0.9
    except ValueError as refused:
        assert "keep it fixed" in str(refused)
