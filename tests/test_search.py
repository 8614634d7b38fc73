"""A search trains and attacks ordinary runs, goes on where it was, and leaves every trial, frontier and figure."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import commands
import pytest
import yaml

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parents[1]
SEARCH_SETTINGS = [
    "evaluate.py", "search=frontier", "data=digits", "attack=[loss]", "search.train.network=linear",
    "search.train.fleet.models=3", "+search.train.fleet.workers=1", "+search.train.trainer.epochs=1",
    "~search.space.dp_sgd", "~search.space.relaxloss", "~search.space.dropout",
]  # fmt: skip


def call(folder: Path, *overrides: str) -> commands.Ended:
    return commands.call(
        *(word for word in SEARCH_SETTINGS if word != "data=digits" or "~data" not in overrides),
        *overrides,
        folder=folder,
        drawn=True,
    )


def start(folder: Path, *overrides: str, flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    """The search in a new interpreter."""
    return subprocess.Popen(
        [sys.executable, *flags, str(REPOSITORY_ROOT / SEARCH_SETTINGS[0]), *SEARCH_SETTINGS[1:], *overrides],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "reports" / "digits" / "frontier" / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder in which a search was killed in its first trial, and called again."""
    folder = tmp_path_factory.mktemp("search")
    killed = start(folder, "search.trials=2")
    for _ in range(1200):  # until the first trial's models are being trained: the second run of the folder
        if len(list((folder / "runs").glob("digits/*/config.yaml"))) == 2 or killed.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    code, out, error = call(folder, "search.trials=2")
    assert code == 0, error
    yield folder, out


def test_every_trial_is_an_ordinary_run(searched: tuple[Path, str]) -> None:
    folder, printed = searched
    trials = rows(folder)
    assert len(trials) == 2 and len({row["run"] for row in trials}) == 2
    runs = {str(path.parent.relative_to(folder)) for path in folder.glob("runs/digits/*/complete.json")}
    assert {row["run"] for row in trials} < runs and len(runs) == 3, "the undefended one stands beside; none was left"
    assert all(row["settings"].startswith("defense=l2 defense.weight_decay=") for row in trials)
    assert all(0 < float(row["utility"]) < 1 and 0 <= float(row["tpr"]) <= 1 for row in trials)
    assert (folder / "reports/digits/frontier/pareto.png").stat().st_size > 10_000
    assert "2 done, 0 failed" in printed and "it flatters" not in printed
    assert "chosen by the very numbers that it shows" in printed


def test_a_plan_counts_the_trials_that_are_over(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    before = sorted(folder.rglob("*"))
    code, out, error = call(folder, "search.trials=5", "plan=true")
    assert code == 0 and "5 trials, 2 of them over" in out and "With its attacks a trial took" in out, error
    assert sorted(folder.rglob("*")) == before


def test_the_same_command_repeats_nothing(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    before, runs = rows(folder), sorted(folder.glob("runs/digits/*"))
    process = start(folder, "search.trials=2", flags=["-X", "importtime"])
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0 and "trial " not in out
    imported = {line.split("|")[-1].strip() for line in error.splitlines()}
    assert "optuna" in imported and not {"torch", "pytorch_lightning"} & imported, "nothing is trained"
    assert rows(folder) == before and sorted(folder.glob("runs/digits/*")) == runs


def test_failed_trials_keep_their_reason_and_exit_with_1(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    negative = [f"search.space.l2.weight_decay.{end}" for end in ("low=-2.0", "high=-1.0", "log=false")]
    code, out, _ = call(folder, "search.trials=1", "name=failing", *negative)
    assert code == 1 and "0 done, 1 failed" in out and "failed: " in out
    with (folder / "reports/failing/frontier/trials.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert "weight_decay" in row["failed"] and row["run"] == row["utility"] == ""


def test_runs_that_recorded_another_share_of_guesses_are_searched_with_it(tmp_path: Path) -> None:
    words = ("data=digits", "network=linear", "fleet.models=3", "fleet.workers=1", "trainer.epochs=1", "guesses=0.2")
    assert commands.call("train.py", *words, folder=tmp_path).returncode == 0
    code, out, error = call(tmp_path, "search.trials=1")
    assert code == 0 and "1 done, 0 failed" in out, error
    shares = {yaml.safe_load(path.read_text())["guesses"] for path in tmp_path.glob("runs/digits/*/config.yaml")}
    assert shares == {0.2, 0.1}, "the run that was there, and new ones"
    code, _, error = call(tmp_path, "search.trials=1", "+search.train.guesses=0.3")
    assert code == 2 and "guesses=0.3: expected " in error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+search.space.l1.strength=[1]"], "defense.strength"),
        (["~data"], "error: data=null: expected the data of search=frontier; add data=<name>"),
        (["search.name=null"], "error: search.name=null: expected "),
        (["search.name=../a"], "error: search.name=../a: expected the name of a folder in reports; "),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path, overrides: list[str], message: str) -> None:
    code, _, error = call(tmp_path, *overrides)
    assert code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists() and not (tmp_path / "reports").exists()
