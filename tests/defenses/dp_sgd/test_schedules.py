"""Choices by numbers that no noise covers need a word that they are public; what trains without noise is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.tuner import Tuner
from test_callback import TEST_SECRET, Module, Plateau, Validated, blobs, fit, trainer
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD

pytestmark = pytest.mark.filterwarnings("ignore")


def loader() -> Any:
    return DataLoader(blobs(), batch_size=24)


class Own(Module):
    """Has its loader, as finders want it."""

    batch_size = 24

    def train_dataloader(self) -> Any:
        return DataLoader(blobs(), batch_size=self.batch_size)


@pytest.mark.parametrize("finder", [LearningRateFinder, BatchSizeFinder])
def test_finders_are_refused_by_name_before_they_train(finder: Any) -> None:
    module = Own()
    start = module.my_net[0].weight.detach().clone()
    with pytest.raises(ValueError, match=rf"{finder.__name__}.*trains without noise") as refused:
        trainer(DPSGD(noise_multiplier=1.0), finder()).fit(module)
    assert "ckpt_path" not in str(refused.value)
    assert torch.equal(module.my_net[0].weight, start) and not module.losses


@pytest.mark.parametrize("find", ["lr_find", "scale_batch_size"])
def test_the_tuner_is_refused_too(find: str) -> None:
    module = Own()
    start = module.my_net[0].weight.detach().clone()
    run = trainer(DPSGD(noise_multiplier=1.0))
    with pytest.raises(ValueError, match="trains without noise") as refused:
        getattr(Tuner(run), find)(module)
    assert "ckpt_path" not in str(refused.value)
    assert torch.equal(module.my_net[0].weight, start) and not module.losses


@pytest.mark.parametrize(
    ("kind", "callback"),
    [
        (Plateau, None),
        (Module, lambda folder: EarlyStopping("loss")),
        (Validated, lambda folder: EarlyStopping("val")),
        (Module, lambda folder: ModelCheckpoint(folder, monitor="loss")),
        (Validated, lambda folder: ModelCheckpoint(folder, monitor="val")),
    ],
    ids=["plateau", "stopping", "stopping by val", "checkpoint", "checkpoint by val"],
)
def test_choices_by_a_metric(kind: Any, callback: Any, tmp_path: Path) -> None:
    more: Any = {"enable_checkpointing": True, "default_root_dir": tmp_path}

    def run(**settings: Any) -> DPSGD:
        own = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET, **settings)
        callbacks = [callback(tmp_path)] if callback else []
        trainer(own, *callbacks, max_epochs=1, **more).fit(kind(), loader(), loader())
        return own

    with pytest.raises(ValueError, match="monitor_is_public=True"):
        run()
    claim = run(monitor_is_public=True).statement
    assert any("measured on public" in line for line in claim.warnings)


def test_checkpoints_that_choose_nothing_are_allowed(tmp_path: Path) -> None:
    own = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    trainer(own, ModelCheckpoint(tmp_path, save_last=True), max_epochs=1, enable_checkpointing=True).fit(
        Module(), loader()
    )
    assert (tmp_path / "last.ckpt").exists()
    assert not any("chooses" in line for line in own.statement.warnings)


def test_an_end_that_follows_the_records_keeps_the_planned_claim() -> None:
    class Stopping(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.global_step >= 5

    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    with pytest.warns(UserWarning, match=r"stopped after \d+ of 30 steps"):
        trainer(callback, min_epochs=0).fit(Stopping(), loader())
    statement = callback.statement
    planned = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    fit(planned)
    assert statement.epsilon == planned.statement.epsilon > callback.epsilon()
    assert any("ended early" in line for line in statement.not_covered)


def test_the_claim_reads_the_same_for_every_way() -> None:
    """Way and reason depend on records."""
    claims = []
    for way in ("fast", "functional", "alone"):
        callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET, per_record=way)
        fit(callback, max_epochs=1)
        assert callback.choice.way == way or way == "functional"
        claims.append(callback.statement.to_json())
    assert claims[0] == claims[1] == claims[2]


@pytest.mark.parametrize("word", ["bfloat16", "half"])
def test_parameters_that_are_trained_in_less_than_single_precision(word: str) -> None:
    module = getattr(Module(), word)()
    with pytest.raises(ValueError, match=r"my_net.0.weight is trained in .*module.float\(\)"):
        fit(DPSGD(noise_multiplier=1.0), module)


def test_frozen_parameters_may_be_of_any_precision() -> None:
    class Frozen(Module):
        def __init__(self) -> None:
            super().__init__()
            self.extra = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16), requires_grad=False)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.my_net.parameters(), lr=0.1)

    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    fit(callback, Frozen(), max_epochs=1)
    assert callback.steps == 10 and isinstance(callback, pl.Callback)
