"""Every refusal of settings, by its text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.rules import check_optimizers, check_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
ZERO_RECORDS = TensorDataset(torch.randn(20, 3), torch.zeros(20, dtype=torch.long))


class Module(pl.LightningModule):
    def __init__(self, optimizer: Any = torch.optim.SGD) -> None:
        super().__init__()
        self.layer, self.optimizer = nn.Linear(3, 2), optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=0.1)


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Fetching(Module):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        raise AssertionError("never called")


class Outside(Module):
    """Trains a tensor that is no parameter of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = [nn.Parameter(torch.zeros(2))]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]) + self.plain[0], batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.parameters(), *self.plain], lr=0.1)


class Unfreezing(Module):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(2, 2).requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.more(self.layer(batch[0])), batch[1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.more.requires_grad_(batch_idx > 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.layer.parameters(), *self.more.parameters()], lr=0.1)


class Reloading(Module):
    """Other batch sizes in later epochs."""

    def train_dataloader(self) -> Any:
        return DataLoader(ZERO_RECORDS, batch_size=5 + 5 * self.current_epoch)


class Skipping(Module):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        return None if batch_idx else super().training_step(batch, batch_idx)


class OwnClipping(Module):
    def configure_gradient_clipping(self, *inputs: Any, **keywords: Any) -> None: ...


class BatchNorm(Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))  # type: ignore[assignment]


class GradientLogger(pl.Callback):
    def on_before_optimizer_step(self, *inputs: Any) -> None: ...


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(ZERO_RECORDS)


def fit(module: Any = None, loader: Any = None, callbacks: Any = (), dpsgd: Any = None, **settings: Any) -> None:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callback = DPSGD(**(dpsgd or {"noise_multiplier": 1.0}))
    trainer = pl.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", **quiet, **settings}, callbacks=[callback, *callbacks]
    )
    trainer.fit(module or Module(), DataLoader(ZERO_RECORDS, batch_size=5) if loader is None else loader)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "epsilon=None, noise_multiplier=None: expected exactly one of them"),
        ({"epsilon": 1, "noise_multiplier": 1.0}, "epsilon=1, noise_multiplier=1.0: expected exactly one of them"),
        ({"epsilon": 0}, "epsilon=0: expected"),
        ({"epsilon": float("nan")}, "epsilon=nan: expected"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0: expected"),
        ({"epsilon": 1, "max_grad_norm": 0}, "max_grad_norm=0: expected"),
        (
            {"epsilon": 1, "clipping": "soft"},
            "clipping=soft: expected one of flat, per_layer, automatic, adaptive; ",
        ),
        ({"epsilon": 1, "max_physical_batch": 0}, "max_physical_batch=0: expected"),
        ({"epsilon": 1, "augmentations": 0}, "augmentations=0: expected"),
        ({"epsilon": 1, "records_per_group": -1}, "records_per_group=-1: expected"),
        ({"epsilon": 1, "delta": 1.5}, "delta=1.5: expected"),
    ],
)
def test_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPSGD(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dpsgd": {"epsilon": 1, "delta": 0.05}},
            r"delta=0.05: expected below 1/N=0.05.*; choose e.g. 0.037",
        ),
        ({"gradient_clip_val": 1.0}, r"gradient_clip_val=1.0: expected null.*; remove it and set DPSGD"),
        (
            {"accumulate_grad_batches": 2},
            "accumulate_grad_batches=2: expected 1, .*; set it to 1",
        ),
        (
            {"callbacks": [pl.callbacks.GradientAccumulationScheduler({0: 2})]},
            "accumulate_grad_batches=.*: expected 1, ",
        ),
        ({"precision": "bf16-mixed"}, "precision=bf16-mixed: expected 32-true"),
        ({"overfit_batches": 1}, "overfit_batches=1: expected 0, .*; set it to 0"),
        ({"max_epochs": -1}, "max_epochs=-1: expected a number of epochs or of steps"),
        (
            {"callbacks": [GradientLogger()]},
            "callback GradientLogger reads gradients in on_before_optimizer_step, before",
        ),
        ({"module": OwnClipping()}, "OwnClipping.configure_gradient_clipping sees gradients before the noise is added"),
        (
            {"module": Manual(), "dpsgd": {"noise_multiplier": 1.0, "max_physical_batch": 4}},
            "max_physical_batch=4: expected null under automatic_optimization=False; leave it out",
        ),
        ({"module": Fetching()}, r"training_step\(dataloader_iter\) fetches batches by itself; take a batch instead"),
        (
            {"module": Module(torch.optim.LBFGS)},
            "optimizer=LBFGS: expected one that evaluates a batch once per step; use SGD",
        ),
        ({"module": Outside()}, "the optimizer's trainable parameters are not the module's; freeze before the fit"),
        ({"module": Unfreezing()}, "the optimizer's trainable parameters are not the module's; freeze before the fit"),
        ({"module": Skipping()}, "training_step returned None; a step may not depend on the records, return the loss"),
        (
            {"module": BatchNorm()},
            r"layer layer.0 \(BatchNorm1d\) mixes the records of a batch; replace it with nn.GroupNorm",
        ),
    ],
)
def test_trainer_and_module(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(**settings)


def test_more_than_one_optimizer() -> None:
    optimizers = [torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(ValueError, match="configure_optimizers gives 2 optimizers; DPSGD needs exactly one"):
        check_optimizers(optimizers)


def test_processes_that_part_the_network() -> None:
    trainer: Any = SimpleNamespace(
        world_size=2, gradient_clip_val=None, callbacks=[], accumulate_grad_batches=1, precision="32-true", strategy=""
    )
    with pytest.raises(ValueError, match=r"strategy=str: expected .*; use ddp"):
        check_trainer(trainer, Module(), pl.Callback(), None)


class Numbers(torch.utils.data.Sampler[int]):
    def __iter__(self) -> Any:
        return iter(range(20))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            DataLoader(Stream(), batch_size=5),
            "dataset=Stream: expected a map-style data set",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=5, sampler=RandomSampler(range(10))),
            "sampler=RandomSampler: expected sequential or shuffled order.*; use shuffle",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=5, sampler=DistributedSampler(ZERO_RECORDS, num_replicas=2, rank=0)),
            "sampler=DistributedSampler: expected sequential or shuffled order",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=5, sampler=WeightedRandomSampler([1.0] * 20, 20)),
            "sampler=WeightedRandomSampler: expected sequential or shuffled order.*; use shuffle",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=5, sampler=RandomSampler(ZERO_RECORDS, replacement=True)),
            "sampler=RandomSampler: expected sequential or shuffled order",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=None, sampler=Numbers()),
            "sampler=Numbers: expected one with a batch size; give batch_size=",
        ),
        (
            DataLoader(ZERO_RECORDS, batch_size=5, drop_last=True),
            "drop_last=True: expected False under Poisson sampling; set",
        ),
        (DataLoader(ZERO_RECORDS, batch_size=30), "batch_size=30: expected at most N=20; choose at most 20"),
        ([DataLoader(ZERO_RECORDS), DataLoader(ZERO_RECORDS)], "train_dataloader=list: expected one torch DataLoader"),
    ],
)
def test_loaders(loader: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(loader=loader)


def test_batches_without_tensors() -> None:
    class Words(torch.utils.data.Dataset[str]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> str:
            return "word"

    with pytest.raises(ValueError, match="batch=list"):
        fit(loader=DataLoader(Words(), batch_size=2))


def test_other_sampling_after_a_reload() -> None:
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        callbacks=[DPSGD(noise_multiplier=1.0)],
        max_epochs=2,
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        **quiet,
    )
    with pytest.raises(ValueError, match=r"q=0\.5,"):
        trainer.fit(Reloading())


def test_a_second_fit_of_the_same_trainer() -> None:
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(callbacks=[DPSGD(noise_multiplier=1.0)], max_epochs=1, accelerator="cpu", **quiet)
    module = Module()
    trainer.fit(module, DataLoader(ZERO_RECORDS, batch_size=5))
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(ValueError, match="global_step=4"):
        trainer.fit(module, DataLoader(ZERO_RECORDS, batch_size=5))


def test_a_gradient_counts_whether_or_not_a_step_follows() -> None:
    class Lazy(Module):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx == 1:
                optimizer_closure()
            else:
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    fit(Lazy())
