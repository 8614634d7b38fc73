"""The device is a setting of the engine: refused where it is not there, never part of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import call

from palisade.targets import device
from palisade.targets.run import identity


@pytest.fixture(autouse=True)
def unchosen(monkeypatch):
    monkeypatch.setenv(device.DEVICE_VARIABLE, "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:a", "CPU", "", None, 0])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"^device=.*: expected auto, cpu, cuda, cuda:<number> or mps"):
        device.choose(name)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:1"), (2, "cuda:2")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, count, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=rf"^device={name}: expected a GPU"):
        device.choose(name)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        *(("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 2, "cuda:0")),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_names_of_devices(monkeypatch, name, gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    device.choose(name)
    assert device.chosen() == torch.device(expected)


def test_mps_is_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device.choose("auto")
    assert device.chosen() == torch.device("cpu")
    device.choose("mps")
    assert device.chosen() == torch.device("mps")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_commands_refuse_before_data_are_read(tmp_path, script):
    done = call(script, "data=csv", "data.path=no_such.csv", "device=cuda", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "device=cuda: expected a GPU" in done.stderr


def test_no_part_of_a_run(compose, tmp_path):
    from palisade.data.dataset import from_config
    from palisade.train import train_run

    settings = compose(
        *("data=digits", "trainer.epochs=1", "trainer.batch_size=8", "split.pool=60", "fleet.models=1", "device=cpu"),
        runs=tmp_path,
    )
    assert identity(settings, from_config(settings)) == identity({**settings, "device": "auto"}, from_config(settings))
    folder = Path(train_run(settings)["folder"])
    assert "device" not in yaml.safe_load((folder / "config.yaml").read_text())
    assert train_run({**settings, "device": "auto"})["status"] == "cached"


def test_training_on_the_cpu_starts_no_gpu(compose, tmp_path, monkeypatch):
    from palisade.train import train_run

    def start() -> None:
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", start)
    for defense in (["defense=none"], ["defense=dp_sgd", "network=mlp"]):
        settings = compose(
            *("data=digits", "trainer.epochs=1", "trainer.batch_size=8", "split.pool=60", "fleet.models=1"),
            *("device=cpu", *defense),
            *(["defense.trainer.epochs=1", "defense.trainer.batch_size=8"] if len(defense) > 1 else []),
            runs=tmp_path,
        )
        assert train_run(settings)["status"] == "trained"


def test_choosing_the_cpu_imports_no_torch():
    assert "torch" in sys.modules
    import subprocess

    code = "import sys; from palisade.targets import device; device.choose('auto'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
