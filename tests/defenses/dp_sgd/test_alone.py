"""Records one by one: no record reaches another's gradient, and what the user's code does besides happens once."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
import user_modules as user
from fit_parts import Parts
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from user_modules import TEST_SECRET, Base, DroppedOut, blobs, fitted, looped

from palisade.defenses.dp_sgd import DPSGD, alone, choice
from palisade.defenses.dp_sgd.rehearsal import random_state

pytestmark = pytest.mark.filterwarnings("ignore")
METHODS_UNDER_TEST = ("functional", "alone")


def gradients(parts: Parts, way: str, step: Any = None, number: int = 0) -> Tensor:
    """Of every record, flat: (records, parameters)."""
    clipped = parts.chooser.make(way)
    with parts.rehearsal.session():
        of_chunks = list(clipped.gradients(parts.step if step is None else step, number=number))
    together = [torch.cat(each) for each in zip(*of_chunks, strict=True)]
    return torch.cat([each.reshape(len(each), -1) for each in together], 1)


def by_record(module: Any, data: Any) -> Tensor:
    return torch.stack([looped(module, Subset(data, [i]), 1e9) for i in range(len(data))]).float()


# Which way.


@pytest.mark.parametrize(
    ("make", "data", "way"),
    [
        (user.Base, blobs, "fast"),
        (user.Scaled, blobs, "functional"),
        (user.ClassToken, blobs, "functional"),
        (user.OTHER_MODULES["LSTM"][0], blobs, "functional"),
        (user.encoder(0.3), blobs, "alone"),
        (user.Noisy, blobs, "fast"),
    ],
    ids=["fast", "scale", "token", "LSTM", "dropout", "noise"],
)
def test_the_fastest_way_that_is_right(make: Any, data: Any, way: str) -> None:
    chosen = Parts(make(), data()).chooser.choose()
    assert chosen.way == way and "\n" not in chosen.reason


def test_many_parameters_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(user.Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(6, 20_000)

        def forward(self, x):
            return super().forward(x) + self.wide(x).mean(1, keepdim=True)

    monkeypatch.setattr(choice, "FUNCTIONAL_PARAMETERS", 100_000)
    assert sum(p.numel() for p in Wide().parameters()) > 100_000
    assert Parts(Wide()).chooser.choose().way == "alone"
    assert Parts(Wide(), per_record="functional").chooser.choose().way == "functional"


@pytest.mark.parametrize("chunk", [1, 4])
def test_rounding_of_a_gradient_that_is_zero_is_no_disagreement(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias added to all logits alike has no gradient but rounding."""

    class Shifted(user.Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Linear(6, 200)

        def forward(self, x):
            return super().forward(x) + self.shift(x).mean(1, keepdim=True)

    monkeypatch.setattr(alone, "MAX_GRADIENT_ELEMENTS", chunk * sum(p.numel() for p in Shifted().parameters()))
    assert Parts(Shifted()).chooser.choose().way == "functional"


@pytest.mark.parametrize("chunk", [1, 4])
def test_vectorized_gradients_that_differ_are_not_used(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Differing(user.Scaled):
        def training_step(self, batch, batch_idx):
            within = torch._C._functorch.maybe_get_level(batch[0]) != -1
            return super().training_step(batch, batch_idx) * (1.01 if within else 1.0)

    monkeypatch.setattr(alone, "MAX_GRADIENT_ELEMENTS", chunk * sum(p.numel() for p in Differing().parameters()))
    assert Parts(Differing()).chooser.choose().way == "alone"


class Branching(user.Scaled):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * 2 if loss.item() > 1 else loss


class Counted(user.Scaled):
    seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return super().training_step(batch, batch_idx)


class ByNumPy(user.Scaled):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0] * float(batch[0].detach().numpy().max())), batch[1])


@pytest.mark.parametrize("make", [Branching, Counted, ByNumPy, user.Noisy, DroppedOut])
def test_what_torch_func_cannot_do_is_not_done_by_it(make: Any) -> None:
    assert Parts(make(), per_record="functional").chooser.choose().way == "alone"


def test_manual_optimization_has_no_place_for_records_one_by_one() -> None:
    class Manual(Base):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ValueError, match=r"automatic_optimization=False: expected True with per_record=alone"):
        Parts(Manual(), per_record="alone").chooser.choose()


# Gradients.


@pytest.mark.parametrize("way", METHODS_UNDER_TEST)
def test_gradients_are_those_of_single_records(way: str) -> None:
    parts = Parts(user.ClassToken())
    torch.testing.assert_close(gradients(parts, way), by_record(parts.module, blobs()), rtol=1e-5, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(Parts(torch.manual_seed(0) and user.ClassToken()), "functional")
    monkeypatch.setattr(alone, "MAX_GRADIENT_ELEMENTS", 5 * sum(p.numel() for p in user.ClassToken().parameters()))
    torch.testing.assert_close(gradients(Parts(torch.manual_seed(0) and user.ClassToken()), "functional"), whole)


class Lengths(Dataset[Any]):
    """Records of different lengths, which come in another order than their number where chunks are of one form."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        return torch.full((1 + index % 3,), index % 5), torch.tensor(index % 3)


def padded(items: Any) -> Any:
    longest = max(len(x) for x, _ in items)
    return torch.stack([F.pad(x, (0, longest - len(x))) for x, _ in items]), torch.stack([y for _, y in items])


@pytest.mark.parametrize("way", METHODS_UNDER_TEST)
def test_records_of_different_forms(way: str) -> None:
    class Words(user.Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(5, 6)

        def forward(self, x):
            return super().forward(self.e(x).mean(1))

    torch.manual_seed(0)
    expected = looped(Words(), Lengths(), 0.5)
    _, moved, _ = fitted(Words, Lengths(), size=9, max_grad_norm=0.5, per_record=way, collate=padded)
    torch.testing.assert_close(moved, -expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("way", METHODS_UNDER_TEST)
def test_a_loss_over_a_divisor(way: str) -> None:
    class Divided(user.Scaled):
        loss_divisor = 7.0

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], reduction="sum") / 7.0

    torch.manual_seed(0)
    _, mean, _ = fitted(user.Scaled, blobs(), size=12, max_grad_norm=0.5, per_record=way)
    _, divided, _ = fitted(Divided, blobs(), size=12, max_grad_norm=0.5, per_record=way)
    torch.testing.assert_close(divided, mean, rtol=0, atol=2e-5)


def test_batches_that_hold_nobody() -> None:
    class Losses(user.Scaled):
        def training_step(self, batch, batch_idx):
            assert len(batch[0]) > 0
            return super().training_step(batch, batch_idx)

    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for way in METHODS_UNDER_TEST:
        callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET, per_record=way)
        run = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[callback], **quiet)
        run.fit(Losses(), DataLoader(blobs(6), batch_size=1))
        assert callback.steps == 30


@pytest.mark.parametrize("output", ["loss", "dictionary", "nothing"])
def test_what_training_step_returns(output: str) -> None:
    seen: list[Any] = []

    class Outputs(user.Scaled):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            skips = output == "nothing" and self.global_step > 0
            return None if skips else {"loss": loss, "x": batch[0]} if output == "dictionary" else loss

        def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
            seen.append(outputs)

    if output == "nothing":
        with pytest.raises(ValueError, match="training_step returned None; a step may not depend on the records"):
            fitted(Outputs, blobs(), size=12, steps=2, per_record="alone")
        return
    _, moved, _ = fitted(Outputs, blobs(), size=12, per_record="alone")
    assert moved.norm() > 0 and len(seen[-1].get("x", range(12))) == 12


# Random numbers.


def check_random_numbers_belong_to_a_record() -> None:
    """A record's gradient is the same whoever else takes part, and another in another step."""
    module = DroppedOut()
    parts = Parts(module)
    torch.manual_seed(5)
    before = random_state()
    whole = gradients(parts, "alone")
    assert random_state() == before
    torch.manual_seed(6)  # whatever torch's own stream has come to
    part = gradients(parts, "alone", step=[3, 7, 11])
    torch.testing.assert_close(part, whole[[3, 7, 11]], rtol=0, atol=0)
    assert not torch.equal(gradients(parts, "alone", number=1), whole)


def test_random_numbers_belong_to_a_record() -> None:
    check_random_numbers_belong_to_a_record()


def test_records_draw_their_own_random_numbers() -> None:
    """Equal inputs under another label drop other units."""
    data = TensorDataset(torch.ones(8, 6), torch.arange(8))

    class Wide(DroppedOut):
        def training_step(self, batch, batch_idx):
            return self.d(torch.relu(self.a(batch[0])) + 1).sum()

    rows = gradients(Parts(Wide(), data), "alone")
    assert len({tuple(row.tolist()) for row in rows}) == 8


def test_transforms_draw_from_a_records_seed_too() -> None:
    """Random numbers of hooks on the batch, as of data augmentation on the device."""

    class Augmented(Base):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + torch.randn_like(batch[0]), batch[1]

    sums = [fitted(Augmented, data, size=12, per_record="alone", max_grad_norm=0.3)[1] for data in (blobs(), blobs())]
    assert torch.equal(*sums)
    less = fitted(Augmented, Subset(blobs(), range(1, 12)), size=12, per_record="alone", max_grad_norm=0.3)[1]
    assert 0.29 < (sums[0] - less).norm() <= 0.3 + 1e-5


# State.


class Carrying(Base):
    """Every record would leave something for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.carried, self.list = torch.zeros(6), []
        self.register_buffer("buffer", torch.zeros(6), persistent=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x + self.carried + self.buffer + sum(self.list)), y)
        self.carried = self.carried + x.mean(0)
        self.buffer += x.mean(0)
        self.list.append(x.mean())
        return loss


def check_state_is_put_back_between_records() -> None:
    module = Carrying()
    of_records = gradients(Parts(module), "alone")
    for record in range(12):
        again = Carrying()
        again.load_state_dict(module.state_dict())
        expected = looped(again, Subset(blobs(), [record]), 1e9).float()
        torch.testing.assert_close(of_records[record], expected, rtol=1e-5, atol=1e-6)
    assert module.list == [] and not module.carried.any() and not module.buffer.any()


def test_state_is_put_back_between_records() -> None:
    check_state_is_put_back_between_records()


def test_what_only_values_show_is_refused() -> None:
    class Hidden(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("memory", torch.zeros(6), persistent=False)

        def training_step(self, batch, batch_idx):
            self.memory.data.add_(batch[0].mean(0))
            return super().training_step(batch, batch_idx)

    parts = Parts(Hidden())
    clipped = parts.chooser.make("alone")
    with pytest.raises(ValueError, match=r"changes memory of the module in place through \.data"):
        clipped.clip(parts.step, number=0, index=0)
    assert not parts.module.memory.any()


# What happens once a step.


class Rows(torchmetrics.Metric):
    """Counts rows and updates."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", torch.zeros(()))
        self.add_state("updates", torch.zeros(()))

    def update(self, x: Tensor) -> None:
        assert not torch.is_grad_enabled()
        self.rows, self.updates = self.rows + len(x), self.updates + 1

    def compute(self) -> Tensor:
        return self.rows


@pytest.mark.parametrize("way", METHODS_UNDER_TEST)
def test_logging_and_metrics_see_a_batch_once_without_gradients(way: str) -> None:
    logged: list[Tensor] = []

    class Logging(user.Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.rows = Rows()

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if len(batch[0]) > 1:  # the one time that it is the whole batch
                self.rows.update(batch[0])
            self.log("loss", loss, on_epoch=True, on_step=False)
            return loss

        def on_train_epoch_end(self) -> None:
            logged.append(torch.stack([self.rows.rows, self.rows.updates]))

    module, _, _ = fitted(Logging, blobs(), size=12, steps=3, per_record=way)
    assert torch.equal(logged[-1], torch.tensor([36.0, 3.0]))
    mean = module.trainer.logged_metrics["loss"]
    assert mean.isfinite() and not mean.requires_grad


def test_logged_loss_is_that_of_the_batch() -> None:
    class Logging(user.Scaled):
        still = 9  # the weights stay

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    module, _, _ = fitted(Logging, blobs(), size=12, per_record="alone")
    expected = F.cross_entropy(module(blobs().tensors[0]), blobs().tensors[1])
    torch.testing.assert_close(module.trainer.logged_metrics["loss"], expected.detach())
