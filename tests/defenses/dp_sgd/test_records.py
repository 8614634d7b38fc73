"""Batches of some of a step's records, whatever a step is; rows are records, and each is named once."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_callback import TEST_SECRET, Plain, trainer
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from user_modules import Base, blobs

from palisade.data.units import Groups, SingleRecords
from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.records import Drawn, FitRecords, Part, digest
from palisade.defenses.dp_sgd.sampling import check_repeats

pytestmark = pytest.mark.filterwarnings("ignore")
RECORD_INPUTS, RECORD_LABELS = blobs(24).tensors


def records(make: Any = lambda step: (RECORD_INPUTS[step], RECORD_LABELS[step]), **settings: Any) -> FitRecords:
    usual: Any = {"transfer": lambda batch: batch, "rows_per_unit": 1, "waiting": deque(), "first": lambda *_: []}
    return FitRecords(make, **{**usual, **settings})


# Some units of a step.


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "array", "tensor"])
@pytest.mark.parametrize("rows", [1, 2])
def test_indices_of_any_kind(kind: Any, rows: int) -> None:
    step, own = kind([8, 9, 2, 3, 10, 11]), records(rows_per_unit=rows)
    assert own.rows(step) == 6 and own.units(step) == 6 // rows
    x, _ = own.batch(own.some(step, [2, 0]))
    expected = [2, 8] if rows == 1 else [10, 11, 8, 9]
    assert torch.equal(x, RECORD_INPUTS[expected])


def test_steps_of_a_stack() -> None:
    index, mask = np.arange(12).reshape(2, 6), np.ones((2, 6), dtype=bool)
    own = records(lambda step: step, rows_per_unit=2)
    assert own.rows((index, mask)) == 6 and own.units((index, mask)) == 3
    some, there = own.some((index, mask), [2])
    assert some.tolist() == [[4, 5], [10, 11]] and there.shape == (2, 2)


def test_rows_of_a_step_that_names_nobody() -> None:
    own = records(lambda step: (RECORD_INPUTS[:6], RECORD_LABELS[:6]), rows_per_index=6)
    assert not own.separable and own.units(2) == 6 and own.units([1, 1]) == 12
    part = own.some(2, [1, 2])
    assert isinstance(part, Part) and own.batch(part)[0].tolist() == RECORD_INPUTS[1:3].tolist()
    with pytest.raises(ValueError, match=r"yields int, which names no records; .*rows_per_index"):
        records().rows(3)


def test_rows_that_were_not_asked_for() -> None:
    own = records()
    own.waiting.append([1, 2, 3])
    own.advance()
    own.check_rows((RECORD_INPUTS[:3], RECORD_LABELS[:3]), 1)
    with pytest.raises(ValueError, match=r"leads with 6 rows where .*3 .*augmentations="):
        own.check_rows((RECORD_INPUTS[:6], RECORD_LABELS[:6]), 1)
    own.advance()
    own.check_rows((RECORD_INPUTS[:6], RECORD_LABELS[:6]), 1)  # of no step that is known


def test_digests_of_batches() -> None:
    one = digest([RECORD_INPUTS[:1], {"y": RECORD_LABELS[:1]}, "word"])
    assert one == digest([RECORD_INPUTS[:1].clone(), {"y": RECORD_LABELS[:1].clone()}, "word"]) and 0 <= one < 2**63
    assert (
        len(
            {
                one,
                digest([RECORD_INPUTS[1:2], {"y": RECORD_LABELS[:1]}, "word"]),
                digest([RECORD_INPUTS[:1], {"y": RECORD_LABELS[:1]}, "other"]),
            }
        )
        == 3
    )
    assert digest([RECORD_INPUTS[:1].mT]) == digest([RECORD_INPUTS[:1].mT.contiguous()])


def test_steps_of_a_foreign_sampler_are_noted_as_they_are_drawn() -> None:
    class Sampler:
        poisson, public_size = True, 24

        def __iter__(self) -> Any:
            return iter([[1], [2, 3]])

        def __len__(self) -> int:
            return 2

    drawn = Drawn(Sampler())
    assert list(drawn) == [[1], [2, 3]] and list(drawn.waiting) == [[1], [2, 3]] and len(drawn) == 2
    assert list(drawn) and len(drawn.waiting) == 2 and drawn.public_size == 24


# Foreign samplers in a fit.


class Foreign:
    """Poisson sampling of someone else's."""

    poisson, sampling_rate, public_size, steps = True, 0.5, 24, 8

    def __init__(self, kind: Any = list) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Any:
        rng = np.random.default_rng(0)
        for _ in range(self.steps):
            yield self.kind(np.flatnonzero(rng.random(24) < 0.5).tolist())


class Whole(Foreign):
    """Yields the number of a step; the data set makes the batch, of twelve rows always."""

    rows_per_index = 12

    def __iter__(self) -> Any:
        return iter(range(self.steps))


class Halves(Dataset[Any]):
    def __getitem__(self, step: int) -> Any:
        return RECORD_INPUTS[12 * (step % 2) :][:12], RECORD_LABELS[12 * (step % 2) :][:12]

    def __len__(self) -> int:
        return 8


class Centered(Base):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return nn.functional.cross_entropy(logits - logits.mean(0), batch[1])


def foreign(module: Any, sampler: Any, data: Any) -> DPSGD:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    trainer(callback, max_epochs=1).fit(module, DataLoader(data, sampler=sampler, batch_size=None))
    return callback


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_foreign_samplers_of_indices(kind: Any) -> None:
    callback = foreign(Base(), Foreign(kind), TensorDataset(RECORD_INPUTS, RECORD_LABELS))
    assert callback.steps == 8 and callback.statement.sampling_rate == 0.5
    with pytest.raises(ValueError, match="couples records"):
        foreign(Centered(), Foreign(kind), TensorDataset(RECORD_INPUTS, RECORD_LABELS))


def test_foreign_samplers_of_whole_batches() -> None:
    assert foreign(Base(), Whole(), Halves()).steps == 8
    with pytest.raises(ValueError, match="couples records"):
        foreign(Centered(), Whole(), Halves())


def test_foreign_samplers_that_name_nobody() -> None:
    class Silent(Whole):
        rows_per_index = None

    with pytest.raises(ValueError, match="declare rows_per_index"):
        foreign(Base(), Silent(), Halves())


def test_foreign_samplers_whose_batches_have_other_rows() -> None:
    class Wrong(Whole):
        rows_per_index = 6

    with pytest.raises(ValueError, match="leads with 12 rows"):
        foreign(Base(), Wrong(), Halves())


# Each record once.


def repeats(dataset: Any) -> int:
    try:
        check_repeats(dataset, SingleRecords(records=len(dataset)))
    except ValueError as refused:
        assert "expected each record once" in str(refused) and "groups=" in str(refused)
        return int(str(refused).partition(", but ")[2].split()[0])
    return 0


FEW_BLOBS, OTHER_BLOBS = blobs(12), blobs(10)


@pytest.mark.parametrize(
    ("dataset", "number"),
    [
        (FEW_BLOBS, 0),
        (Subset(FEW_BLOBS, [3, 1, 2]), 0),
        (Subset(FEW_BLOBS, [3, 1, 3, 3]), 2),
        (Subset(Subset(FEW_BLOBS, [3, 1, 3]), [0, 2]), 1),
        (Subset(Subset(FEW_BLOBS, [3, 1, 3]), [0, 1]), 0),
        (ConcatDataset([FEW_BLOBS, OTHER_BLOBS]), 0),
        (ConcatDataset([FEW_BLOBS, FEW_BLOBS]), 12),
        (ConcatDataset([FEW_BLOBS, OTHER_BLOBS, Subset(FEW_BLOBS, [4])]), 1),
        (ConcatDataset([Subset(FEW_BLOBS, range(6)), Subset(FEW_BLOBS, range(6, 12))]), 0),
        (ConcatDataset([ConcatDataset([FEW_BLOBS, OTHER_BLOBS]), OTHER_BLOBS]), 10),
        (Subset(ConcatDataset([FEW_BLOBS, FEW_BLOBS]), [0, 12]), 1),
        (Subset(ConcatDataset([FEW_BLOBS, FEW_BLOBS]), [0, 13]), 0),
        (Subset(FEW_BLOBS, torch.tensor([1, 1])), 1),
        (Subset(FEW_BLOBS, [-1, 11]), 1),
    ],
)
def test_records_that_are_named_again(dataset: Any, number: int) -> None:
    assert repeats(dataset) == number


def test_a_group_may_hold_a_record_as_often_as_it_likes() -> None:
    dataset = Subset(FEW_BLOBS, [3, 1, 3])
    check_repeats(dataset, Groups(np.array([0, 1, 0]), records_per_group=2, secret=TEST_SECRET, name="group"))


# Groups draw for themselves.


def test_what_a_group_contributes_does_not_depend_on_others() -> None:
    def drawn(groups: list[str]) -> list[int]:
        units = Groups(np.array(groups), records_per_group=2, secret=TEST_SECRET, name="group")
        own = sorted(set(groups)).index("bob")
        return [groups[:row].count("bob") for row in units.rows(np.array([own]), 0, 5)]

    assert drawn(["bob"] * 9) == drawn(["ann", *["bob"] * 9]) == drawn([*["bob"] * 9, "carl", "ann"])


def test_batches_reach_the_checks_through_the_users_hooks() -> None:
    class Hooked(Plain):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] - batch[0].mean(0), batch[1]

    run = trainer(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), max_epochs=1)
    with pytest.raises(ValueError, match="couples records"):
        run.fit(Hooked(nn.Linear(6, 3)), DataLoader(blobs(24), batch_size=8))
    assert isinstance(run, pl.Trainer) and run.global_step == 0
