"""Forgetting a run: all of it goes, nothing else does, and nothing half removed is taken for a run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose as composed_of
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from palisade import evaluate
from palisade.evaluation import frontier_search
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.report import run_report
from palisade.targets import forget as forgetting
from palisade.targets.forget import FORGOTTEN_PREFIX, forget, main
from palisade.targets.run import Run, find
from palisade.train import train_run

REPOSITORY_ROOT = Path(__file__).parents[2]
REPORTS_FOLDER, RELEASED_FOLDER = Path("reports"), Path("released")
TINY_RUN = ["data=digits", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1"]


@pytest.fixture
def runs(compose, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        train_run(compose(*TINY_RUN, f"seed={seed}"))
    return tmp_path / "runs"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_is_gone_and_the_others_are_as_they_were(runs):
    gone, other = sorted((runs / "digits").iterdir())
    before = content(other)
    line = forget(gone, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert line == (
        f"removed {gone}: 2 models, signals, results, secret and log; nothing under reports and released names it"
    )
    assert list((runs / "digits").iterdir()) == [other] and content(other) == before


def test_reports_that_name_the_run_are_listed_wherever_they_are(runs):
    gone, other = sorted((runs / "digits").iterdir())
    reports = ["digits/report.html", "digits/exposed.csv", "digits/frontier/study.db", "digits/frontier/trials.csv"]
    for name in (*reports, "digits/results.csv"):
        path = runs.parent / "elsewhere" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff" + (other if name.endswith("results.csv") else gone).name.encode() + b"\0")
    assert forget(gone, runs, Path("elsewhere"), RELEASED_FOLDER).endswith(
        f"what remains elsewhere: {', '.join(f'elsewhere/{name}' for name in sorted(reports))}"
    )


def test_what_remains_is_listed_too_when_removing_goes_on(runs):
    one = min((runs / "digits").iterdir())
    (one / "private" / "release_secret").write_text("system 00")
    one.rename(one.with_name(f"{FORGOTTEN_PREFIX}{one.name}"))
    REPORTS_FOLDER.mkdir()
    (REPORTS_FOLDER / "report.html").write_text(one.name)
    line = forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert "the release trained by its recipe" in line and line.endswith(", reports/report.html")


@pytest.mark.parametrize("chosen", ["mlp", "linear"])
def test_trials_of_a_tuned_run_go_with_it(compose, runs, chosen):
    """Whichever of both networks won on validation records."""
    small = ["split.validation=100", "tuning.models=1", "defense.trainer.epochs=1", "defense.epsilon=inf"]
    grid = ["~tuning.grid", "+tuning.grid={defense:{trainer:{optimizer:{lr:[0.1]}}}}"]
    tuned = Path(train_run(compose(*TINY_RUN, "defense=dp_sgd", "tuning=dp_sgd", *small, *grid))["folder"])
    config = yaml.safe_load((tuned / "config.yaml").read_text())
    config["names"]["network"] = chosen
    (tuned / "config.yaml").write_text(yaml.safe_dump(config))
    trial, _ = (runs / ".trials" / "digits").iterdir()  # of the network itself, and of a linear one
    other = shutil.copytree(trial, trial.with_name("of-another-claim"))
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("epsilon: .inf", "epsilon: 64"))
    assert "and 2 trials: 4 models" in forget(tuned, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert [path.name for path in trial.parent.iterdir()] == ["of-another-claim"]


@pytest.mark.parametrize("killed_at", ["rename", "rmtree"])
def test_kill_in_between_leaves_nothing_that_looks_complete(runs, monkeypatch, killed_at):
    gone, other = sorted((runs / "digits").iterdir())

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    target = Path if killed_at == "rename" else shutil
    monkeypatch.setattr(target, killed_at, kill)
    with pytest.raises(KeyboardInterrupt):
        forget(gone, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    monkeypatch.undo()
    assert [run.folder for run in find(runs, "digits", None)] == [other]
    assert "removed" in forget(gone, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert list((runs / "digits").iterdir()) == [other]
    assert not list(runs.rglob(f"{FORGOTTEN_PREFIX}*"))


def test_what_is_no_run_is_refused(runs, tmp_path):
    (runs / "digits" / "notes").mkdir()
    (tmp_path / "elsewhere" / "digits").mkdir(parents=True)
    one = next(folder for folder in (runs / "digits").iterdir() if folder.name != "notes")
    moved = shutil.copytree(one, tmp_path / "elsewhere" / "digits" / one.name)
    (runs / "digits" / "link").symlink_to(moved)
    for folder in (runs, runs / "digits", runs / "digits" / "link", moved, runs / "digits" / ".." / "..", Path("/")):
        with pytest.raises(ValueError, match=r"^run=.*: expected a folder in .*/<data>/; give root=<folder of runs>"):
            forget(folder, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    for name in ("notes", "nowhere"):
        with pytest.raises(ValueError, match=r"^run=.*: expected the folder of a run; give one that train.py printed$"):
            forget(runs / "digits" / name, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert moved.is_dir() and one.is_dir() and (runs / "digits" / "notes").is_dir()


def test_run_that_is_being_trained_is_refused(runs):
    one = min((runs / "digits").iterdir())
    before = content(one)
    with Run(one).lock(), pytest.raises(ValueError, match=r"^run=.*: expected one not in use by another process; wait"):
        forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert content(one) == before


def test_damaged_configuration_keeps_no_run_alive(runs):
    one = min((runs / "digits").iterdir())
    (one / "config.yaml").write_text("a: [")
    assert "removed" in forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER) and not one.exists()


def test_release_that_remains_is_named(runs):
    one = min((runs / "digits").iterdir())
    (one / "private" / "release_secret").write_text("system 00")
    for name in ("digits-mlp-none", "digits-mlp-none-label", "digits-mlp-l2"):
        (Path("shipped") / name).mkdir(parents=True)
    twin = shutil.copytree(one, one.with_name("mlp-none-1a2b3c4d"))
    places = "shipped/digits-mlp-none, shipped/digits-mlp-none-label"
    for run, released, where in ((one, Path("shipped"), places), (twin, RELEASED_FOLDER, "not in released")):
        line = forget(run, runs, REPORTS_FOLDER, released)
        assert f"the release trained by its recipe ({where}), which others may have copied" in line


@pytest.mark.parametrize("words", [[], ["run="], ["nonsense"], ["run=a", "force=true"]])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match=r"expected run=<folder>; use make forget run=<folder that train.py printed>"):
        main(words)


def test_command_removes_a_run_in_one_line(runs):
    one, other = sorted((runs / "digits").iterdir())
    Path("told").mkdir()
    (Path("told") / "report.html").write_text(other.name)
    python = f"{sys.executable} -m {forgetting.__name__} "
    for run, words in ((one, ()), (other, ("reports=told", f"root={runs}", "released=shipped"))):
        command = [
            "make",
            "-sn",
            "-o",
            ".venv/.installed",
            "-f",
            str(REPOSITORY_ROOT / "Makefile"),
            "forget",
            f"run={run}",
            *words,
        ]
        recipe = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        done = subprocess.run(
            recipe.replace(".venv/bin/python -m palisade.targets.forget ", python), shell=True, cwd=runs.parent,
            env={"PYTHONPATH": str(REPOSITORY_ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.startswith("removed ") and not run.exists()
        assert ("told/report.html" if words else "nothing under reports and released names it") in done.stdout
        assert len((done.stdout + done.stderr).splitlines()) == 1


def test_an_evaluation_keeps_its_runs_until_it_has_written_its_report(runs):
    one, other = sorted((runs / "digits").iterdir())
    with Run(one).read(), Run(one).read():  # two evaluations at a time
        before = content(one)
        with pytest.raises(
            ValueError, match=rf"^run={one}: expected one not being evaluated by another process; wait until"
        ):
            forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER)
        assert content(one) == before, "nothing of it was removed"
        forget(other, runs, REPORTS_FOLDER, RELEASED_FOLDER)
    assert forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER).startswith(f"removed {one}")


def test_a_run_that_is_being_removed_is_not_evaluated(runs):
    one = min((runs / "digits").iterdir())
    with Run(one).unread() as mine:
        assert mine
        with pytest.raises(ValueError, match="expected a run that no other process is removing"), Run(one).read():
            pass


def test_evaluating_holds_every_run(runs, monkeypatch):
    """From before the first attack until the report is written."""
    asked = []

    def report(evaluated, *_):
        for run in evaluated:
            with pytest.raises(ValueError, match="not being evaluated by another process"):
                forget(run.folder, runs, REPORTS_FOLDER, RELEASED_FOLDER)
            asked.append(run.folder.resolve())

    monkeypatch.setattr(run_report, "report_runs", report)
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(composed_of("evaluate", ["data=digits", "attack=loss"]), resolve=True)
    evaluate.evaluate_runs({**settings, "command": ""})
    assert sorted(asked) == sorted((runs / "digits").iterdir())


def test_a_search_holds_every_run_that_it_tries(runs, compose, monkeypatch, tmp_path):
    one, other = sorted((runs / "digits").iterdir())

    def explored(search, folder, name, attempt):
        attempt(["seed=1"])
        for run in (one, other):
            with pytest.raises(ValueError, match="not being evaluated by another process"):
                forget(run, runs, REPORTS_FOLDER, RELEASED_FOLDER)
        return []

    monkeypatch.setattr(frontier_search, "explore", explored)
    search = frontier_search.Search(name="frontier", trials=1, train={}, space={"l2": {"weight_decay": [1e-3]}})
    attacks = AttackProtocol(attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}})
    frontier_search.run_search(search, attacks, tmp_path, lambda *words: compose(*TINY_RUN, *words), train_run)
    assert forget(one, runs, REPORTS_FOLDER, RELEASED_FOLDER).startswith(f"removed {one}")
