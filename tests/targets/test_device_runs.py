"""Whole runs on a device: what they leave on disk is what the CPU leaves, bit by bit, and so is what is measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fork
from device_fits import QUICK_DP_SGD, train_on_device
from simulated_device import SIMULATED_DEVICE, counting

from palisade.data.placement import CPU
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import BLACK_BOX, AttackProtocol
from palisade.evaluation.report.run_report import tidy_csv
from palisade.evaluation.signals.inner import last_hidden
from palisade.targets import device, engines, training
from palisade.targets.digests import DIGEST_SUFFIX
from palisade.targets.progress import LOG_FILE
from palisade.targets.run import Run
from palisade.train import train_run

SMALL_RUN = (
    *("data=digits", "network=mlp", "network.hidden=[16]", "split.pool=0.2", "split.reference=0.1"),
    *("fleet.models=4", "fleet.at_once=2", "fleet.workers=1", "trainer.epochs=2", "trainer.batch_size=32"),
    "secret=devices",
)
CANARY_RUN = ("canary=label_noise", "canary.count=20", "guard=hamp_output", "fleet.keep_checkpoints=1")
MEASURED_ATTACKS = {
    **{name: {"_target_": f"palisade.attacks.{name}"} for name in ("LossThreshold", "LiRA", "Trajectory")},
    **{name: {"_target_": f"palisade.attacks.{name}"} for name in ("GradientNorm", "Alignment", "WhiteBox")},
    "copies": {"_target_": "palisade.attacks.NoiseAgreement", "copies": 1},
}


def content(runs: Path) -> dict[str, bytes]:
    """Everything that a run leaves, by its place, but for times and what holds some."""
    timed = (LOG_FILE, ".lock", DIGEST_SUFFIX)
    files = {str(path.relative_to(runs)): path for path in runs.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith(timed)}


@pytest.fixture
def on(monkeypatch) -> Callable[[torch.device], None]:
    """Chooses the device of what follows."""
    return lambda chosen: monkeypatch.setattr(training, "chosen", lambda: chosen)


@pytest.mark.parametrize("overrides", [CANARY_RUN, ("guard=memguard", "fleet.models=1")])
def test_a_run_with_its_guard(compose, tmp_path, on, overrides):
    for place in (CPU, SIMULATED_DEVICE):
        on(place)
        with counting() as costs:
            train_run(compose(*SMALL_RUN, *overrides, runs=tmp_path / place.type))
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    assert list((tmp_path / SIMULATED_DEVICE.type).rglob("guards/*/*.safetensors"))
    assert content(tmp_path / "cpu") == content(tmp_path / SIMULATED_DEVICE.type)


def weights(runs: Path) -> list[Path]:
    return list(runs.rglob("models/*.safetensors"))


@pytest.mark.parametrize("defense", [(), pytest.param(QUICK_DP_SGD, marks=pytest.mark.slow)])
def test_killed_in_the_middle_and_resumed(compose, tmp_path, on, defense):
    overrides = (*SMALL_RUN, *defense, *(["defense.trainer.epochs=2"] if defense else []))
    killed = compose(*overrides, runs=tmp_path / "killed")
    process = fork(train_on_device, killed)
    while not weights(tmp_path / "killed") and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert 0 < len(weights(tmp_path / "killed")) < 4
    train_on_device(killed)
    train_run(compose(*overrides, runs=tmp_path / "whole"))
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


def test_what_is_measured_of_a_run(compose, tmp_path, on):
    train_run(compose(*SMALL_RUN, *CANARY_RUN, runs=tmp_path / "cpu"))
    (folder,) = (tmp_path / "cpu" / "digits").iterdir()
    copy = shutil.copytree(tmp_path / "cpu", tmp_path / "there") / "digits" / folder.name
    protocol = AttackProtocol(attacks=MEASURED_ATTACKS, threat={**BLACK_BOX, "weights": True})
    rows, hidden, answers = [], [], []
    for path, place in ((folder, CPU), (copy, SIMULATED_DEVICE)):
        on(place)
        run = Run(path, "none")
        with counting() as costs:
            rows.append(tidy_csv(results_of([run], protocol)))
            hidden.append(last_hidden(run))
            guarded = training.load_guarded(run.config, run.dataset, path, [0, 1], "hamp_output")
            answers.append(guarded.predict(run.dataset.x[:20]))
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    assert rows[0] == rows[1] and "white_box" in rows[0]
    assert np.array_equal(*hidden) and np.array_equal(*answers)


def place_of(_: int) -> str:
    return str(device.chosen())


def test_workers_inherit_the_choice(monkeypatch):
    try:
        for name in ("mps", "cpu"):
            monkeypatch.setenv(device.DEVICE_VARIABLE, name)
            assert set(engines.run(place_of, [(1,), (2,)], 2)) == {name}
    finally:
        engines.stop()
