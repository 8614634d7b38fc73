"""Memory of records outside the module, or read late; weights that others move; batches left out.

Measured from outside, as in `test_sensitivity.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from user_modules import Base, blobs, fitted, sensitivity

from palisade.defenses.dp_sgd.rules import PrivacyWarning

pytestmark = pytest.mark.filterwarnings("ignore")


class Slots:
    __slots__ = ("mu",)

    def __init__(self) -> None:
        self.mu: Any = 0.0


HELD_RECORDS = Slots()


class Outside(Base):
    """Centers its inputs by a number that its last batch left in a place which is no state of the module."""

    shared: ClassVar[dict[str, Any]] = {}
    place, still = "class", 1

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.shared["mu"], HELD_RECORDS.mu = Slots(), 0.0, 0.0

    def recall(self) -> Any:
        return {"class": self.shared["mu"], "global": HELD_RECORDS.mu, "slots": self.slots.mu}[self.place]

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x - self.recall()), y)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        mu = 10 * batch[0].mean(0)
        self.shared["mu"], HELD_RECORDS.mu, self.slots.mu = mu, mu, mu


@pytest.mark.parametrize("place", ["class", "global", "slots"])
def test_what_is_remembered_outside_the_module(place: str) -> None:
    kind = type("Kind", (Outside,), {"place": place})
    with pytest.raises(ValueError, match="follows the records without noise, and training_step reads it"):
        sensitivity(kind, blobs(), range(2), clip=1.0, steps=2)


class Late(Base):
    """A memory that is read from the third step on: at first it only looks like a log."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(6), persistent=False)
        self.list: list[Any] = [torch.zeros(6)]
        self.seen = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen += 1
        memory = self.mu if self.buffered else self.list[0]
        return F.cross_entropy(self(x - memory if self.seen > 3 else x), y)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.mu = self.list[0] = 10 * batch[0].mean(0)

    buffered, still = True, 4


@pytest.mark.parametrize("buffered", [True, False])
def test_a_memory_that_is_read_later(buffered: bool) -> None:
    kind = type("Kind", (Late,), {"buffered": buffered})
    with pytest.raises(ValueError, match="follows the records without noise, and training_step reads it"):
        sensitivity(kind, blobs(), range(2), clip=1.0, steps=5)


class Chained(Base):
    """Every call centers by what the call before left."""

    last: ClassVar[dict[str, Any]] = {}

    def training_step(self, batch, batch_idx):
        x, y = batch
        before, self.last["x"] = self.last.get("x", 0.0), 3 * x.mean(0)
        return F.cross_entropy(self(x - before), y)


class Running:
    """A collate function with a running mean."""

    def __init__(self) -> None:
        self.mean: Any = 0.0

    def __call__(self, items):
        x, y = (torch.stack(list(each)) for each in zip(*items, strict=True))
        before, self.mean = self.mean, 0.5 * self.mean + x.mean(0)
        return x - before, y


@pytest.mark.parametrize("way", ["auto", "functional", "alone"])
def test_records_that_meet_in_a_chain(way: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"couples records|changes with the records before it|follows the records|fails on a batch of one",
    ):
        sensitivity(Chained, blobs(), range(2), clip=1.0, per_record=way)
    with pytest.raises(ValueError, match=r"couples records|changes with the records before it"):
        sensitivity(Base, blobs(), range(2), clip=1.0, per_record=way, collate=Running())


class Centering(pl.Callback):
    """Centers a batch by the mean of the one before."""

    def __init__(self) -> None:
        self.mean: Any = 0.0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch[0].sub_(self.mean)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.mean = self.mean + 10 * batch[0].mean(0)


class Moving(pl.Callback):
    """Moves trained weights by the batch's mean."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with torch.no_grad():
            module.b.weight.add_(batch[0].mean(0))


def test_callbacks_that_remember_records_or_move_weights() -> None:
    with pytest.raises(ValueError, match=r"couples records|follows the records"):
        sensitivity(type("Still", (Base,), {"still": 1}), blobs(), range(2), clip=1.0, steps=2, callbacks=[Centering])
    with pytest.raises(ValueError, match=r"b\.weight is set from the records without noise"):
        sensitivity(Base, blobs(), range(2), clip=1.0, callbacks=[Moving])


class Moved(Base):
    """Moves its weights by the batch's mean, in one hook or another."""

    def training_step(self, batch, batch_idx):
        self.__dict__["held"] = batch[0].mean(0)
        return super().training_step(batch, batch_idx)

    def move(self) -> None:
        with torch.no_grad():
            self.b.weight.add_(self.held)


class AfterTheStep(Moved):
    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        optimizer.step(closure)
        self.move()


class AtTheEnd(Moved):
    def on_train_end(self):
        self.move()


@pytest.mark.parametrize("kind", [AfterTheStep, AtTheEnd])
def test_weights_that_something_else_moves(kind: type[Base]) -> None:
    with pytest.raises(ValueError, match=r"b\.weight (changed, although|is set from the records)"):
        sensitivity(kind, blobs(), range(2), clip=1.0)


class Clamped(Base):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            self.b.weight.clamp_(-0.5, 0.5)


class Averaged(Base):
    """An average of the weights, kept by hand and put in their place at the end: noised numbers alone."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.__dict__["average"] = self.b.weight.detach().clone()

    def on_train_end(self):
        with torch.no_grad():
            self.b.weight.copy_(self.average)


@pytest.mark.parametrize("kind", [Clamped, Averaged])
def test_what_is_done_to_noised_weights_alone_is_allowed(kind: type[Base]) -> None:
    _, moved, _ = fitted(kind, blobs(), size=12, steps=3)
    assert moved.norm() > 0


class LeftOut(Base):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch[0].abs().max() > 0 and self.current_epoch == 1 else None


def test_a_batch_that_is_left_out() -> None:
    with pytest.raises(ValueError, match=r"left out .* run one backward pass for every batch"):
        fitted(LeftOut, blobs(), size=12, steps=3)


class Skipping(Base):
    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        loss = closure()
        if loss > 1e3:
            optimizer.step()


def test_a_step_that_is_left_out_is_named() -> None:
    with pytest.warns(PrivacyWarning, match="an optimizer step was left out: where that follows the loss, ε does not"):
        pl.seed_everything(0)
        run = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        from palisade.defenses.dp_sgd import DPSGD

        run.callbacks.append(DPSGD(noise_multiplier=1.0))
        run.fit(Skipping(), torch.utils.data.DataLoader(blobs(), batch_size=12))


class Early(Base):
    """Makes what it needs in a hook before the first batch."""

    def on_fit_start(self):
        self.one = torch.ones(())

    def on_train_start(self):
        self.two = [1.0]

    def training_step(self, batch, batch_idx):
        return self.one * self.two[0] * super().training_step(batch, batch_idx)


class Sharpened(Base):
    """Adversarial inputs (FGSM), with a parameter that book-keeping does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.b(x)

    def training_step(self, batch, batch_idx):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self(x), batch[1], reduction="sum"), x)
        return F.cross_entropy(self(batch[0] + 0.1 * slope.sign()), batch[1])


@pytest.mark.parametrize("kind", [Early, Sharpened])
@pytest.mark.parametrize("way", ["auto", "alone"])
def test_what_people_have_trains(kind: type[Base], way: str) -> None:
    assert sensitivity(kind, blobs(), range(2), clip=1.0, per_record=way) > 0.05


class Functions(Base):
    """Dropout as a function, and a sum over the batch divided by its usual size."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.b(F.dropout(x, 0.5)), y, reduction="sum") / 12


def test_dropout_as_a_function_hides_no_sum() -> None:
    with pytest.raises(ValueError, match="returns the sum of the records' losses"):
        sensitivity(Functions, blobs(), range(2), clip=0.3)


class Graph:
    def __init__(self, value: torch.Tensor):
        self.value = value

    def __repr__(self) -> str:
        return f"Graph(value={list(self.value.shape)})"


class Graphs(Base):
    """Reads objects whose texts are the same for every record."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        y, graphs = batch
        return F.cross_entropy(self.scale * self.b(torch.stack([graph.value for graph in graphs])), y)


def test_objects_are_not_taken_for_each_other_by_their_text() -> None:
    def collate(items):
        return torch.stack([y for _, y in items]), [Graph(x) for x, _ in items]

    _, vectorized, _ = fitted(Graphs, blobs(), size=12, max_grad_norm=0.5, collate=collate)
    _, alone, _ = fitted(Graphs, blobs(), size=12, max_grad_norm=0.5, collate=collate, per_record="alone")
    torch.testing.assert_close(vectorized, alone, rtol=1e-5, atol=1e-6)
