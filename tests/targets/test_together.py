"""Two real processes train one model of a run as one process does, and whichever dies is missed at once."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fork
from safetensors.torch import load_file

from palisade.data.secret import Secret
from palisade.targets import engines
from palisade.targets.cascade import Stage
from palisade.targets.checkpoints import weights_path
from palisade.targets.device import DEVICE_VARIABLE
from palisade.targets.engines import LocalEngine, ddp, together
from palisade.targets.guards import NoGuard
from palisade.targets.run import Run
from palisade.targets.shipping import ship
from palisade.train import composed, train_run

SMALL_RUN = ("data=digits", "network.hidden=[8]", "trainer.epochs=2", "fleet.models=1", "fleet.workers=1",
             "secret=together", "quiet=true",
             "trainer.optimizer._target_=torch.optim.SGD", "trainer.optimizer.lr=0.5")  # fmt: skip
PROMPT_SECONDS = 100
"""Far below `PATIENCE_TIME`, for machines that are busy."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    engines.choose({"_target_": "palisade.targets.engines.local.LocalEngine"})


@pytest.mark.parametrize("words", [(), ("defense=dp_sgd", "defense.trainer.epochs=2")], ids=["plain", "dp_sgd"])
def test_two_processes_train_a_model_of_a_run_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    states, logs = [], []
    for count in (1, 2):
        settings = composed(f"runs=runs{count}", *SMALL_RUN, *words, f"engine.devices_per_model={count}")
        folder = Path(train_run(settings)["folder"])
        states.append(load_file(folder / "models" / "0.safetensors"))
        logs.append((folder / "train.log").read_text().count("models 0 trained"))
        summary = (folder / "summary.json").read_text()
    assert logs == [1, 1] and "epsilon" in summary
    check_summed_otherwise(*states)


def check_summed_otherwise(alone: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]) -> None:
    """Equality but for the order in which the gradients of records were added."""
    for name, value in alone.items():
        assert not value.equal(shared[name]) or value.numel() < 20
        assert value.allclose(shared[name], atol=1e-5), name


def test_releases_and_further_shadows_are_trained_by_two_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = composed(f"runs={tmp_path}", *SMALL_RUN)
    run = Run(Path(train_run(settings)["folder"]))
    coins = np.random.default_rng(0).random(len(run.dataset.split.pool))
    released, shadows = [], []
    for count in (1, 2):
        monkeypatch.setenv(together.PROCESSES_VARIABLE, str(count))
        released.append(ship(run.config, [], Secret.from_text("s")).network.state_dict())
        stage = Stage.of(run.folder, 0, coins < 0.2, coins > 0.8)
        stage.train(run.config, NoGuard(), 1)
        shadows.append(load_file(weights_path(stage.folder, 0)))
        weights_path(stage.folder, 0).unlink()
    check_summed_otherwise(*released)
    check_summed_otherwise(*shadows)


def die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        faulthandler._sigsegv()  # type: ignore[attr-defined]
    raise ValueError(f"planted {how}")


def die_in_a_step(how: str) -> None:
    ddp.join_group(torch.device("cpu"))
    torch.distributed.barrier()
    die(how)


EXPECTED_ENDINGS = {
    "exit": "with exit code 7; it printed last: nothing;",
    "kill": "by SIGKILL; it printed last: nothing;",
    "crash": "by SIGSEGV; it printed last: ",
    "error": "| ValueError: planted error;",
}


@pytest.mark.parametrize("how", EXPECTED_ENDINGS)
@pytest.mark.parametrize("step", [False, True], ids=["start", "step"])
def test_a_process_that_dies_is_missed_at_once_and_its_reason_printed(
    monkeypatch: pytest.MonkeyPatch, how: str, step: bool
) -> None:
    monkeypatch.setenv(together.PROCESSES_VARIABLE, "2")
    environment, began = dict(os.environ), time.monotonic()
    with (
        pytest.raises(ChildProcessError, match=r"^engine\.devices_per_model=2: a process .* ended ") as raised,
        together.processes(die_in_a_step if step else die, (how,)),
    ):
        ddp.join_group(torch.device("cpu"))
        torch.distributed.barrier()
        torch.distributed.all_reduce(torch.ones(3))
    assert EXPECTED_ENDINGS[how] in str(raised.value) and "\n" not in str(raised.value)
    assert time.monotonic() - began < PROMPT_SECONDS
    assert dict(os.environ) == environment and not torch.distributed.is_initialized()


def test_an_error_of_the_first_process_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(together.PROCESSES_VARIABLE, "2")
    with pytest.raises(ValueError, match=r"^of the first$"), together.processes(die, ("exit",)):
        raise ValueError("of the first")


def wait_long(folder: str) -> None:
    (Path(folder) / "other").write_text(str(os.getpid()))
    time.sleep(600)


def first(folder: str) -> None:
    os.environ[together.PROCESSES_VARIABLE] = "2"
    with together.processes(wait_long, (folder,)):
        time.sleep(600)


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    process = fork(first, str(tmp_path))
    while not (content := tmp_path / "other").exists() or not content.read_text():
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    end = time.monotonic() + PROMPT_SECONDS
    while True:
        try:
            os.kill(int(content.read_text()), 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "gpus", "most"), [("cuda", 1, 1), ("cuda:2", 3, 1), ("mps", 0, 1)])
def test_processes_without_a_device_of_their_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, most: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=rf"^engine\.devices_per_model=2: expected at most {most}, the devices from"):
        ddp.check_devices(torch.device(name), 2)
    ddp.check_devices(torch.device(name), most)
    ddp.check_devices(torch.device("cpu"), 5)


def test_workers_have_as_many_gpus_as_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    engine = LocalEngine(devices_per_model=2)
    assert engine._gpus() == ["0,1", "2,3"] and engine.count("auto") == 2
