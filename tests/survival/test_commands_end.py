"""Commands as a user calls them: what they say, how they end, under every launcher, and that a kill costs nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from sweeps import content

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parents[2]
SMOKE_SWEEP = ("train.py", "-m", "experiment=smoke", "fleet.models=2", "fleet.at_once=1", "secret=survival")
HYDRA_LAUNCHERS = ("joblib", "submitit_local")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    script, *arguments = words
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY_ROOT / script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=commands.hear_interrupts,
    )


def call(folder: Path, *words: str) -> tuple[str, str]:
    process = start(folder, *words)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return output, error


def not_progress(error: str) -> list[str]:
    return [line for line in error.splitlines() if "models · " not in line and "attacks · " not in line]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the smoke sweep was trained; nothing but the progress was said."""
    folder = tmp_path_factory.mktemp("smoke")
    trained = commands.call(*SMOKE_SWEEP, folder=folder)
    assert trained.returncode == 0 and trained.stdout == "2 done, 0 failed, 0 skipped\n"
    assert not_progress(trained.stderr) == [] and trained.stderr.splitlines()[-1].startswith("4/4 models · ")
    return folder


def test_attacks_say_nothing_but_the_progress(smoke):
    attacked = commands.call("evaluate.py", "data=digits", "attack=quick", folder=smoke)
    assert attacked.returncode == 0, attacked.stderr
    assert not_progress(attacked.stderr) == [] and " attacks · " in attacked.stderr
    assert pickles(smoke) == []


def test_quiet_says_nothing_but_the_results(smoke):
    for command in (SMOKE_SWEEP, ("evaluate.py", "data=digits", "attack=quick")):
        output, error = call(smoke, *command, "quiet=true")
        assert error == "" and output


@pytest.mark.parametrize("launcher", HYDRA_LAUNCHERS)
def test_launchers_leave_the_same_and_keep_pickles_to_their_scratch(launcher, smoke, tmp_path):
    plugin = f"hydra_{launcher.split('_')[0]}_launcher"
    if importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip("needs the extra `sweep`")
    output, error = call(tmp_path, *SMOKE_SWEEP, f"hydra/launcher={launcher}")
    assert output == "2 done, 0 failed, 0 skipped\n" and not_progress(error) == []
    pickle_files = pickles(tmp_path)
    assert not [path for path in pickle_files if tmp_path / "runs" / ".sweep" not in path.parents]
    assert bool(pickle_files) == (launcher == "submitit_local")
    models = list((smoke / "runs").rglob("*.safetensors"))
    assert len(models) == 4
    for path in models:
        assert (tmp_path / path.relative_to(smoke)).read_bytes() == path.read_bytes()


def pickles(folder: Path) -> list[Path]:
    """The files that are pickles by their first two bytes, or by their name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    starts = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
    return [path for path in files if path.suffix in (".pkl", ".pt", ".ckpt") or path.read_bytes().startswith(starts)]


def test_commands_of_the_page_on_long_runs(tmp_path):
    page = (REPOSITORY_ROOT / "docs" / "long_runs.md").read_text(encoding="utf-8")
    page_commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert [
        f"hydra/launcher={name}" in line for name, line in zip(HYDRA_LAUNCHERS, page_commands[3:], strict=True)
    ] == [True, True]
    pytest.importorskip("tensorboard", reason="needs the extra `track`")
    small = ("fleet.models=1", "trainer.epochs=1")
    assert commands.call(*shlex.split(page_commands[0])[1:], *small, folder=tmp_path).returncode == 0
    assert list(tmp_path.rglob("tensorboard/0/events*"))
    planned = commands.call(*shlex.split(page_commands[1])[1:], folder=tmp_path)
    assert planned.returncode == 0 and "1 run" in planned.stdout and not list(tmp_path.rglob("signals"))


def test_slurm_composes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `sweep`")
    words = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu", "--cfg", "hydra", "-p", "hydra.launcher")
    output, _ = call(tmp_path, "train.py", "experiment=smoke", *words)
    assert "_target_: hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher" in output
    assert "partition: cpu" in output and "submitit_folder: ${hydra.sweep.dir}/.submitit/%j" in output


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_of_a_training_in_this_process_is_one_line(sent, tmp_path):
    """Lightning turns Ctrl-C into an exit with 1, without a word."""
    process = start(tmp_path, "train.py", "data=digits", "fleet.models=1", "trainer.epochs=100000")
    end = time.monotonic() + 120
    while not list(tmp_path.rglob("train.log")) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, sent)
    output, error = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, "")
    assert not_progress(error) == ["interrupted: 0 of 1 models are done; the same command goes on from there"]
    assert not list(tmp_path.rglob("FAILED"))


KILL_MOMENTS = 10


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "main"])
def test_command_killed_at_random_moments(smoke, tmp_path, whole_group):
    """Together 20 moments; of the whole process group, and of the main process alone, whose workers then end, too."""
    started = time.monotonic()
    call(tmp_path, *SMOKE_SWEEP, "runs=timed")
    evaluate = ("evaluate.py", "data=digits", "attack=quick")
    folders = []
    for number, moment in enumerate(np.random.default_rng(6).uniform(0, time.monotonic() - started, KILL_MOMENTS)):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        process = start(folders[-1], *SMOKE_SWEEP)
        time.sleep(moment)
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        call(folders[-1], *SMOKE_SWEEP)
        for path in (smoke / "runs").rglob("*.safetensors"):
            assert (folders[-1] / path.relative_to(smoke)).read_bytes() == path.read_bytes()
        content(folders[-1] / "runs")  # nothing is half written
    for folder in (smoke, folders[-1]):
        call(folder, *evaluate)
    assert results(smoke) == results(folders[-1])


def results(folder: Path) -> bytes:
    return (folder / "reports" / "digits" / "results.csv").read_bytes()
