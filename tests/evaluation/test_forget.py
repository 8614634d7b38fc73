"""Forgetting a run: all of it goes, nothing else does, and nothing half removed is taken for a run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import forget as forgetting
from evaluation.forget import FORGOTTEN, forget, main
from evaluation.runs import Run, find
from train import train

ROOT = Path(__file__).parents[2]
TINY = ["data=digits", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1"]


@pytest.fixture
def runs(compose, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        train(compose(*TINY, f"seed={seed}"))
    return tmp_path / "runs"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_is_gone_and_the_others_are_as_they_were(runs):
    gone, kept = sorted((runs / "digits").iterdir())
    before = content(kept)
    reports = runs.parent / "reports" / "digits"
    reports.mkdir(parents=True)
    (reports / "exposed.csv").write_text(f"run,record\n{gone.name},7\n")
    (reports / "results.csv").write_text(f"run\n{kept.name}\n")
    line = forget(gone, runs)
    assert line == (
        f"removed {gone}: 2 models, signals, findings, secret and log;"
        " what remains elsewhere: reports/digits/exposed.csv"
    )
    assert list((runs / "digits").iterdir()) == [kept] and content(kept) == before


def test_trials_of_a_tuned_run_go_with_it(compose, runs):
    small = ["split.validation=100", "tuning.models=1", "defense.trainer.epochs=1", "defense.epsilon=inf"]
    grid = ["~tuning.grid", "+tuning.grid={defense:{trainer:{optimizer:{lr:[0.1]}}}}"]
    tuned = Path(train(compose(*TINY, "defense=dp_sgd", "tuning=dp_sgd", *small, *grid))["folder"])
    (trial,) = (runs / ".trials" / "digits").iterdir()
    other = shutil.copytree(trial, trial.with_name("of-another-claim"))
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("epsilon: .inf", "epsilon: 64"))
    assert "and 1 trials: 3 models" in forget(tuned, runs)
    assert [path.name for path in trial.parent.iterdir()] == ["of-another-claim"]


@pytest.mark.parametrize("killed_at", ["rename", "rmtree"])
def test_kill_in_between_leaves_nothing_that_looks_complete(runs, monkeypatch, killed_at):
    gone, kept = sorted((runs / "digits").iterdir())

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    target = Path if killed_at == "rename" else shutil
    monkeypatch.setattr(target, killed_at, kill)
    with pytest.raises(KeyboardInterrupt):
        forget(gone, runs)
    monkeypatch.undo()
    assert [run.folder for run in find(runs, "digits", None)] == [kept]
    assert "removed" in forget(gone, runs)
    assert list((runs / "digits").iterdir()) == [kept]
    assert not list(runs.rglob(f"{FORGOTTEN}*"))


def test_what_is_no_run_is_refused(runs, tmp_path):
    (runs / "digits" / "notes").mkdir()
    (tmp_path / "elsewhere" / "digits").mkdir(parents=True)
    one = next(folder for folder in (runs / "digits").iterdir() if folder.name != "notes")
    moved = shutil.copytree(one, tmp_path / "elsewhere" / "digits" / one.name)
    (runs / "digits" / "link").symlink_to(moved)
    for folder in (runs, runs / "digits", runs / "digits" / "link", moved, runs / "digits" / ".." / "..", Path("/")):
        with pytest.raises(ValueError, match=r"does not lie in .*/<data>/; give root=<folder of runs>"):
            forget(folder, runs)
    for name in ("notes", "nowhere"):
        with pytest.raises(ValueError, match=r"is no run; give a folder that train.py printed$"):
            forget(runs / "digits" / name, runs)
    assert moved.is_dir() and one.is_dir() and (runs / "digits" / "notes").is_dir()


def test_run_that_is_being_trained_is_refused(runs):
    one = min((runs / "digits").iterdir())
    before = content(one)
    with Run(one).lock(), pytest.raises(ValueError, match="is in use by another process; wait until it has ended"):
        forget(one, runs)
    assert content(one) == before


def test_damaged_configuration_keeps_no_run_alive(runs):
    one = min((runs / "digits").iterdir())
    (one / "config.yaml").write_text("a: [")
    assert "removed" in forget(one, runs) and not one.exists()


def test_release_that_remains_is_named(runs):
    one = min((runs / "digits").iterdir())
    (one / "private" / "release_secret").write_text("system 00")
    assert "the release trained by its recipe (released/), which others may have copied" in forget(one, runs)


@pytest.mark.parametrize("words", [[], ["run="], ["nonsense"], ["run=a", "force=true"]])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match=r"names no run; use make forget run=<folder that train.py printed>"):
        main(words)


def test_command_removes_a_run_in_one_line(runs):
    one = min((runs / "digits").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", forgetting.__name__, f"run={one}"],
        cwd=runs.parent, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("removed ") and not one.exists()
    assert len((done.stdout + done.stderr).splitlines()) == 1
