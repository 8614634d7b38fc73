"""A sweep killed at any moment leaves the outcome of an undisturbed one after the same command again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from commands import fork
from safetensors.torch import save
from sweeps import SWEEP_SETTINGS, attack, content, results, sweep
from torch import Tensor

from palisade.targets import training
from palisade.targets.checkpoints import JOURNAL_PREFIX, discard_partly_written, written_together
from palisade.targets.files import temporary_path
from palisade.targets.run import Run
from palisade.train import train_run

pytestmark = pytest.mark.slow

Start = Callable[..., BaseProcess]


def moments(count: int, until: float) -> list[float]:
    """Seeded random moments, in seconds."""
    return sorted(np.random.default_rng(6).uniform(0, until, count))


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, undisturbed: Path) -> float:
    """Seconds of a whole sweep with the fork server running."""
    started = time.monotonic()
    fork(sweep, tmp_path_factory.mktemp("timed") / "runs").join()
    return time.monotonic() - started


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_sweep_ends_as_if_nobody_had_killed_it(count, seconds, undisturbed, tmp_path, start: Start):
    for moment in moments(count, seconds):
        while True:
            runs = tmp_path / f"{moment:.3f}"
            killed = start(sweep, runs)
            time.sleep(moment)
            killed.kill()
            killed.join()
            if killed.exitcode != 0:
                break
            moment /= 2  # it ended first: a busy machine is faster now than when the sweep was timed
        again = start(sweep, runs)
        again.join()
        assert again.exitcode == 0
        assert content(runs) == content(undisturbed)


def test_killed_again_and_again(seconds, undisturbed, tmp_path, start: Start):
    for moment in moments(2, seconds / 2):
        killed = start(sweep, tmp_path / "runs")
        time.sleep(moment)
        killed.kill()
        killed.join()
    start(sweep, tmp_path / "runs").join()
    assert content(tmp_path / "runs") == content(undisturbed)


def test_two_processes_share_a_sweep(undisturbed, tmp_path, start: Start):
    both = [start(sweep, tmp_path / "runs") for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert content(tmp_path / "runs") == content(undisturbed)


def test_killed_evaluation_ends_with_the_same_results(undisturbed, tmp_path, start: Start):
    wanted, runs = tmp_path / "wanted", tmp_path / "runs"
    for copy in (wanted, runs):
        shutil.copytree(undisturbed, copy)
    started = time.monotonic()
    start(attack, wanted).join()
    for moment in moments(2, time.monotonic() - started):
        killed = start(attack, runs)
        time.sleep(moment)
        killed.kill()
        killed.join()
    again = start(attack, runs)
    again.join()
    assert again.exitcode == 0
    lines = results(runs).splitlines()
    assert lines == results(wanted).splitlines() and len(lines) > 100
    assert content(runs).keys() == content(wanted).keys()


def test_stack_of_which_some_models_were_written_is_trained_as_a_whole(undisturbed, tmp_path, start: Start):
    shutil.copytree(undisturbed, tmp_path / "runs")
    folder = next((tmp_path / "runs" / "digits").glob("mlp-none-*"))
    (folder / "complete.json").unlink()
    with pytest.raises(KeyError), written_together(folder, [2, 3]):
        (folder / "models" / "3.safetensors").unlink()
        raise KeyError  # where the process would have been killed
    half = temporary_path(folder / "models" / "3.safetensors")
    half.with_name(half.name.replace(half.name.split("-")[1], "999999999")).write_bytes(b"half")
    (folder / "models" / "2.safetensors").write_bytes(b"rounded otherwise")
    start(sweep, tmp_path / "runs").join()
    assert content(tmp_path / "runs") == content(undisturbed)


def test_journal_stands_while_a_stack_is_written(tmp_path, monkeypatch):
    def spy(weights: dict[str, Tensor]) -> bytes:
        journals.extend(path.name for path in tmp_path.rglob(f"{JOURNAL_PREFIX}*"))
        return save(weights)

    journals: list[str] = []
    monkeypatch.setattr(training, "save", spy)
    train_run({**SWEEP_SETTINGS[0], "runs": str(tmp_path)})
    assert journals == [f"{JOURNAL_PREFIX}-0-1"] * 2 + [f"{JOURNAL_PREFIX}-2-3"] * 2
    assert not list(tmp_path.rglob(f"{JOURNAL_PREFIX}*"))


def test_models_of_whole_stacks_stay(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "runs")
    run = Run(next((tmp_path / "runs" / "digits").glob("mlp-none-*")))
    with written_together(run.folder, [2, 3]):
        pass
    discard_partly_written(run.folder)
    assert run.missing(4) == []
