"""Runs of a sweep side by side: one list of work items, the same bytes, a failure of one run is its own."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY_ROOT, RUN_INTERPRETER

from palisade.targets import engines
from palisade.targets.run import Run
from palisade.targets.side_by_side import POSTPONED_STATUS, BegunRun, gathering, train_all
from palisade.train import composed, train_run

TINY_RUN = (
    "data=digits",
    "network.hidden=[8]",
    "trainer.epochs=2",
    "fleet.models=4",
    "fleet.at_once=2",
    "secret=unspoken",
)
DIVERGING_RUN = ("trainer.optimizer.lr=1e30",)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    engines.stop()
    engines.choose({"_target_": "palisade.targets.engines.local.LocalEngine"})


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run.folder / "models").glob("*.safetensors"))}


def begun(folder: Path, *settings: tuple[str, ...]) -> Iterator[BegunRun]:
    for words in settings:
        yield train_run(composed(f"runs={folder}", *TINY_RUN, "fleet.workers=1", *words))["begun"]


def test_a_failure_of_one_run_leaves_the_others_and_their_bytes_alone(tmp_path: Path) -> None:
    alone = Run(Path(train_run(composed(f"runs={tmp_path / 'alone'}", *TINY_RUN, "fleet.workers=1"))["folder"]))
    taken: list[BegunRun] = []

    def followed() -> Iterator[BegunRun]:
        for run in begun(tmp_path / "runs", ("seed=1",), DIVERGING_RUN, ()):
            assert [each.is_over for each in taken] == [True] * len(taken), "begun before a worker was free"
            taken.append(run)
            yield run

    with gathering():
        train_all(followed(), 1)
    reasons = [run.error for run in taken]
    assert reasons[0] is reasons[2] is None and reasons[1] is not None and "diverged" in reasons[1]
    first, failed, last = (run.job.run for run in taken)
    assert first.is_complete() and last.is_complete() and not failed.is_complete()
    assert files(last) == files(alone) and (failed.folder / "FAILED").read_text() == f"{reasons[1]}\n"
    lines = (last.folder / "train.log").read_text().splitlines()
    assert [line.split(" ")[1] for line in lines] == ["4", "models", "models", "complete"]
    for run in (first, failed, last):
        with run.lock() as free:
            assert free


def test_a_run_waits_for_another_one_of_its_folder(tmp_path: Path) -> None:
    plain, rounded = (
        composed(f"runs={tmp_path}", *TINY_RUN, "fleet.workers=1", word) for word in ("seed=0", "guard=rounding")
    )
    with gathering():
        first = train_run(plain)["begun"]
        assert train_run(rounded)["status"] == POSTPONED_STATUS
        train_all(iter([first]), 1)
        assert "begun" not in train_run(plain), "it is cached"
    assert train_run(rounded)["status"] == "trained"


def test_locks_are_free_after_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> Iterator[BegunRun]:
        yield from begun(tmp_path, ())
        raise KeyboardInterrupt

    held: list[BegunRun] = []
    with pytest.raises(KeyboardInterrupt), gathering():
        train_all((held.append(run) or run for run in interrupted()), 1)
    with held[0].job.run.lock() as free:
        assert free


SBATCH_SCRIPT = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
array = re.search("array=0-([0-9]+)(.*)", text)
with open(os.path.join(os.path.dirname(__file__), "submitted"), "a") as log:
    print(array[0] if array else "a job", file=log)
number = 1000 * os.getpid()
env = dict.fromkeys(("NODEID", "PROCID", "LOCALID"), 0) | {{"NTASKS": 1, "JOB_NUM_NODES": 1, "JOB_ID": number}}
named = " ".join(f"SLURM_{{name}}={{value}}" for name, value in env.items())
loop = "".join(
    f"{{named}} SLURM_ARRAY_JOB_ID={{number}} SLURM_ARRAY_TASK_ID={{task}} sh {{sys.argv[1]}};"
    for task in range(int(array[1]) + 1)
) if array else f"{{named}} sh {{sys.argv[1]}}"
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
subprocess.Popen(["sh", "-c", loop], start_new_session=True, **quiet)
print("Submitted batch job", number)
"""
"""Slurm's command, which starts the jobs of an array here, one after the other, and remembers which array it was."""
SRUN_SCRIPT = """#!{python}
import os, sys
words = sys.argv[1:]
start = next(place for place, word in enumerate(words) if word.endswith("python") or "python3" in word)
os.execv(words[start], words[start:])
"""


@pytest.fixture
def pretended_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of Slurm; `submitted` there holds a line for each submission."""
    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in (
        ("sbatch", SBATCH_SCRIPT),
        ("srun", SRUN_SCRIPT),
        ("sacct", "#!/bin/sh\n"),
        ("scancel", "#!/bin/sh\n"),
    ):
        (place / name).write_text(text.format(python=sys.executable))
        (place / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    return place


@pytest.mark.slow  # every job imports torch
def test_a_sweep_is_one_array_of_slurm_over_the_chunks_of_all_its_runs(tmp_path: Path, pretended_slurm: Path) -> None:
    sweep = ("-m", "seed=0,1", *TINY_RUN, "engine=slurm", "engine.jobs=3", "quiet=true")
    done = RUN_INTERPRETER(
        [sys.executable, REPOSITORY_ROOT / "train.py", *sweep],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (0, "2 done, 0 failed, 0 skipped\n"), done.stderr
    assert (pretended_slurm / "submitted").read_text() == "array=0-3%3\n"
    runs = [Run(folder) for folder in sorted(tmp_path.glob("runs/digits/*"))]
    assert [len(files(run)) for run in runs] == [4, 4] and not list(tmp_path.glob("runs/.jobs*"))
    for run in runs:
        assert (run.folder / "train.log").read_text().count(" models ") == 3
