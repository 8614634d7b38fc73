"""Two real processes train what one would: the same batches, the noise once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from commands import fork
from test_callback import TEST_SECRET, Plain, blobs, fit, trainer
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD


class Keep(pl.Callback):
    """Keeps what a process holds at the end."""

    def __init__(self, folder: Path, callback: DPSGD):
        self.folder, self.callback = folder, callback

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        outcome = {"state": module.state_dict(), "epsilon": self.callback.epsilon(), "steps": self.callback.steps}
        torch.save(outcome, self.folder / f"{trainer.global_rank}.pt")


def train(folder: Path, planted: Callable[[], None] | None, with_secret: bool, settings: dict[str, Any]) -> None:
    if planted is not None:
        planted()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    callback = DPSGD(**settings, secret=TEST_SECRET if with_secret else None)
    two: Any = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 2, "use_distributed_sampler": with_secret}
    run = trainer(callback, Keep(folder, callback), **two)
    run.fit(Plain(), DataLoader(blobs(), batch_size=24, shuffle=True))


def train_in_two_processes(
    folder: Path, planted: Callable[[], None] | None = None, with_secret: bool = True, **settings: Any
) -> list[Any]:
    process = fork(train, folder, planted, with_secret, settings)
    process.join(120)
    if process.exitcode != 0:
        raise RuntimeError(f"the training ended with {process.exitcode}")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def check_two_processes(folder: Path, planted: Callable[[], None] | None = None) -> None:
    settings: Any = {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "clipping": "adaptive"}
    first, second = train_in_two_processes(folder, planted, **settings)
    torch.manual_seed(1)
    callback = DPSGD(**settings, secret=TEST_SECRET)
    alone = fit(callback, Plain(), DataLoader(blobs(), batch_size=24, shuffle=True), max_epochs=2)
    for name, expected in alone.state_dict().items():
        assert torch.equal(first["state"][name], second["state"][name])
        assert torch.allclose(first["state"][name], expected, atol=1e-4), name
    assert first["steps"] == second["steps"] == callback.steps == 20
    assert first["epsilon"] == second["epsilon"] == callback.epsilon()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    check_two_processes(tmp_path)


def test_processes_agree_on_a_secret_that_nobody_gave(tmp_path: Path) -> None:
    first, second = train_in_two_processes(tmp_path, with_secret=False, noise_multiplier=1.0)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])
