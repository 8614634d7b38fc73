"""Both commands as a user calls them: real processes, real files, exit codes, one-line errors."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import call

from palisade.targets.release import Release

REPOSITORY_ROOT = Path(__file__).parent.parent
QUERY_COLUMNS = ("queries_declared", "queries_made")
STANDARD_ATTACKS = set(yaml.safe_load((REPOSITORY_ROOT / "conf" / "attack" / "standard.yaml").read_text())["defaults"])
TEXT_ATTACKS = {"zlib", "min_k", "min_k_plus", "sharpness", "base_difference", "error_zone", "windows", "token_rmia"}
"""Attacks of the standard that language models alone get."""


def importing(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Calls a command in a new interpreter, which tells on stderr what it imports."""
    script, *arguments = words
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(REPOSITORY_ROOT / script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder in which the smoke sweep was trained and evaluated."""
    folder = tmp_path_factory.mktemp("swept")
    trained = call("train.py", "-m", "experiment=smoke", folder=folder)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines() == ["2 done, 0 failed, 0 skipped"]
    assert "8/8 models" in trained.stderr
    evaluated = call("evaluate.py", "data=digits", folder=folder)
    assert evaluated.returncode == 0, evaluated.stderr
    (folder / "printed").write_text(evaluated.stdout)
    return folder


def test_evaluation_prints_the_table_and_the_files(swept):
    printed = (swept / "printed").read_text()
    for word in ("defense", "ε lower", "accuracy", "AUC", "TPR at 1% FPR", "flags", "none", "dp_sgd"):
        assert word in printed
    for name in ("results.csv", "exposed.csv", "tradeoff.png", "roc.png", "exposure.png", "report.html", "report.json"):
        assert f"reports/digits/{name}" in printed
        assert (swept / "reports" / "digits" / name).stat().st_size > 0


def test_results_are_tidy(swept):
    with (swept / "reports" / "digits" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = (
        "run data network defense guard canary seed epsilon delta strength guard_strength released model attack access"
        " group metric"
    )
    assert list(rows[0]) == [*columns.split(), "value", "low", "high", "members", "nonmembers", *QUERY_COLUMNS]
    assert {row["defense"] for row in rows} == {"none", "dp_sgd"}
    assert {row["attack"] for row in rows} == {"", *STANDARD_ATTACKS} - TEXT_ATTACKS
    assert {row["model"] for row in rows} == {"all", "0", "1", "2", "3"}
    useful = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss", "calibration_error")
    of_no_attack = {
        *(f"test_{name}" for name in useful),
        "train_accuracy",
        "largest_class",
        "linear_test_accuracy",
        "linear_test_balanced_accuracy",
        "linear_test_log_loss",
        "linear_test_roc_auc",
        *(f"private_linear_test_{name}" for name in ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")),
        "duplicates",
        "log_odds_spread",
    }
    assert {row["metric"] for row in rows if not row["attack"]} == of_no_attack
    private = [float(row["epsilon"]) for row in rows if row["defense"] == "dp_sgd"]
    assert all(7.92 <= epsilon <= 8 for epsilon in private)
    assert all(row["epsilon"] == "" for row in rows if row["defense"] == "none")
    asked = {float(row["queries_made"]) for row in rows if row["attack"] == "noise_agreement"}
    assert 17 < min(asked) <= max(asked) <= 65
    fleet = {row["metric"]: row for row in rows if row["model"] == row["group"] == "all" and row["attack"] == "lira"}
    assert float(fleet["auc"]["low"]) <= float(fleet["auc"]["value"]) <= float(fleet["auc"]["high"])


def test_cached_commands_import_neither_torch_nor_lightning(swept):
    trained = importing("train.py", "-m", "experiment=smoke", folder=swept)
    evaluated = importing("evaluate.py", "data=digits", folder=swept)
    for done in (trained, evaluated):
        assert done.returncode == 0
        names = imported(done)
        assert "hydra.main" in names
        assert not {name for name in names if name.split(".")[0] in ("torch", "pytorch_lightning", "opacus")}
    assert (swept / "reports" / "digits" / "tradeoff.png").stat().st_size > 10_000
    assert not imported(trained) & {"sklearn", "scipy.stats", "pandas", "matplotlib"}  # they take over a second


def test_cached_sweep_composes_every_run_once(swept):
    code = (
        "import sys; from hydra._internal.config_loader_impl import ConfigLoaderImpl as Loader\n"
        "load = Loader.load_configuration\n"
        "def loaded(self, *, config_name, overrides, **how):\n"
        "    print('composed:', *overrides)\n"
        "    return load(self, config_name=config_name, overrides=overrides, **how)\n"
        "Loader.load_configuration = loaded\n"
        "from palisade.commandline import console; console()"
    )
    words = [sys.executable, "-c", code, "train", "-m", "experiment=smoke"]
    done = subprocess.run(words, cwd=swept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = [line for line in done.stdout.splitlines() if line.startswith("composed:") and "defense=" in line]
    assert len(runs) == len(set(runs)) == 2


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_imports_no_torch(script, tmp_path):
    done = importing(script, "--help", folder=tmp_path)
    assert done.returncode == 0 and "data" in done.stdout
    assert "hydra.main" in imported(done) and "torch" not in imported(done)


def test_plan_trains_nothing(tmp_path):
    done = call("train.py", "-m", "experiment=quickstart", "plan=true", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 runs" in done.stdout and "160" in done.stdout
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("config.yaml"))


@pytest.fixture(scope="module")
def shipped(swept: Path) -> Path:
    """Outcome of shipping the run with DP-SGD."""
    (run,) = (swept / "runs" / "digits").glob("linear-dp_sgd-*")
    done = call("train.py", f"ship={run}", folder=swept)
    assert done.returncode == 0, done.stderr
    return swept / done.stdout.strip()


def test_shipped_run_is_a_release_anyone_can_use(swept, shipped):
    (run,) = (swept / "runs" / "digits").glob("linear-dp_sgd-*")
    for unused in ("plan=true", "defense=none"):
        refused = call("train.py", f"ship={run}", unused, "released=elsewhere", folder=swept)
        assert refused.returncode == 2 and not (swept / "elsewhere").exists()
        assert f"{unused.partition('=')[0]}: expected no such setting beside ship={run}, " in refused.stderr
    assert shipped == swept / "released" / "digits-linear-dp_sgd"
    release = Release.load(shipped)
    assert release.statement.guarantee and release.statement.randomness == "operating system"
    assert release.statement.public_size == 1258  # the whole pool
    audited = {row["attack"] for row in release.card["audit"]["results"]}
    assert audited == STANDARD_ATTACKS - TEXT_ATTACKS
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    predicted = np.array(release.predict(images[:500]))
    assert (predicted == labels[:500].astype(str)).mean() > 0.3  # five epochs at ε = 8
    again = call("train.py", f"ship={run}", folder=swept)
    assert again.returncode == 2 and "every further release costs privacy anew" in again.stderr


def test_nothing_public_lets_anyone_recompute_who_was_trained_on(swept, shipped):
    from palisade.targets.run import Run

    (run,) = (Run(folder) for folder in (swept / "runs" / "digits").glob("linear-dp_sgd-*"))
    public = [path for path in shipped.rglob("*") if path.is_file()]
    assert {path.name for path in public} == {"model.safetensors", "card.json", "card.html"}
    content = b"".join(path.read_bytes() for path in public).decode("latin1")
    hidden = [run.secret.value.hex(), (run.folder / "private" / "release_secret").read_text().split()[1], run.name]
    assert not [secret for secret in hidden if secret in content]
    card = json.loads((swept / "released" / "digits-linear-dp_sgd" / "card.json").read_text())
    realized = {int(count) for count in run.membership().sum(axis=1)} - {run.config["split"]["pool"]}
    assert not realized & set(numbers(card))


def numbers(content: object) -> list[float]:
    """All numbers in nested plain values."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for part in content for number in numbers(part)]
    return [content] if isinstance(content, int | float) else []


def test_sweep_goes_on_after_a_failed_run(tmp_path):
    tiny = ["data=digits", "fleet.models=1", "fleet.workers=1", "trainer.epochs=1"]
    done = call("train.py", "-m", *tiny, "trainer.batch_size=64,5000", folder=tmp_path)
    assert done.returncode == 1
    assert "1 done, 1 failed, 0 skipped" in done.stdout
    assert "batch_size=5000: expected at most 629, " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_illegal_key_stops_a_sweep_before_its_first_run(tmp_path):
    done = call("train.py", "-m", "experiment=smoke", "nonsense=1", folder=tmp_path)
    assert done.returncode == 2 and "nonsense" in done.stderr
    assert not (tmp_path / "runs" / "digits").exists()


ONE_MODEL = ("train.py", "fleet.models=1", "fleet.workers=1")
BAD_COMMANDS = {
    "no data": ((*ONE_MODEL,), "data=null: expected a data set; choose one of ag_news, breast_cancer, cifar10, "),
    "unknown data": ((*ONE_MODEL, "data=nope"), "Could not find 'data/nope' Available options in 'data':"),
    "unknown defense": ((*ONE_MODEL, "data=digits", "defense=nope"), "Could not find 'defense/nope'"),
    "unknown key": ((*ONE_MODEL, "data=digits", "nope=1"), "nope is no setting; nearest are name. "),
    "batch above N": ((*ONE_MODEL, "data=digits", "trainer.batch_size=700"), "=700: expected at most 629, "),
    "no models": ((*ONE_MODEL, "data=digits", "fleet.models=0"), "fleet.models=0: expected an integer >= 1 and <= "),
    "no share": ((*ONE_MODEL, "data=digits", "guesses=0.7"), "guesses=0.7: expected a number > 0 and <= 0.5; "),
    "missing file": ((*ONE_MODEL, "data=npz", "data.path=nowhere.npz"), "nowhere.npz"),
    "corrupted file": ((*ONE_MODEL, "data=npz", "data.path=corrupt.npz"), "corrupt.npz"),
    "NaN": ((*ONE_MODEL, "data=npz", "data.path=nan.npz"), "x has NaN or infinite values"),
    "labels": ((*ONE_MODEL, "data=npz", "data.path=labels.npz"), "labels from 1 to 2"),
    "not writable": ((*ONE_MODEL, "data=digits", "runs=/proc/runs"), "/proc/runs: No such file or directory; choose"),
    "epsilon": ((*ONE_MODEL, "data=digits", "defense=dp_sgd", "defense.epsilon=0"), "defense.epsilon=0: expected"),
    "delta": ((*ONE_MODEL, "data=digits", "defense=dp_sgd", "defense.delta=0.01"), "delta=0.01"),
    "batch norm": (
        (*ONE_MODEL, "data=digits", "defense=dp_sgd", "network=own", "network._target_=own_network.Normed"),
        "(BatchNorm1d) mixes the records of a batch",
    ),
    "own network": (
        (*ONE_MODEL, "data=digits", "network._target_=own_network.Normed", "network.hidden=[3]"),
        "network.hidden=[3]: no such setting, ",
    ),
    "no path": ((*ONE_MODEL, "data=npz"), "data.path: not given, expected a text; "),
    "no label": ((*ONE_MODEL, "data=csv", "data.path=a.csv"), "data.label: not given, expected a text; "),
    "seed": ((*ONE_MODEL, "data=digits", "seed=1.5"), "seed=1.5: expected an integer >= 0; "),
    "batch size": ((*ONE_MODEL, "data=digits", "trainer.batch_size=abc"), "trainer.batch_size=abc: expected an "),
    "epochs": ((*ONE_MODEL, "data=digits", "trainer.epochs=null"), "trainer.epochs=null: expected an integer"),
    "optimizer": ((*ONE_MODEL, "data=digits", "trainer.optimizer=null"), "trainer.optimizer=null: expected a group"),
    "learning rate": ((*ONE_MODEL, "data=digits", "trainer.optimizer.lr=abc"), "trainer.optimizer._target_="),
    "no optimizer": ((*ONE_MODEL, "data=digits", "trainer.optimizer._target_=torch.No"), "torch.No"),
    "no split": ((*ONE_MODEL, "data=digits", "split=null"), "split=null: expected a group of settings; "),
    "no fleet": ((*ONE_MODEL, "data=digits", "fleet=null"), "fleet=null: expected a group of settings; leave it out"),
    "fleet of nothing": ((*ONE_MODEL, "data=digits", "fleet=[]"), "Error merging override fleet=[]: these settings"),
    "trainer of nothing": ((*ONE_MODEL, "data=digits", "trainer=[]"), "trainer: not given, expected a group of"),
    "network of nothing": ((*ONE_MODEL, "data=digits", "network=[]"), "network=[]: expected one name; "),
    "networks": ((*ONE_MODEL, "data=digits", "network=[mlp,cnn]"), "network=[mlp,cnn]: expected one name; "),
    "values without -m": (
        (*ONE_MODEL, "data=digits", "network=mlp,cnn"),
        "error: network=mlp,cnn: expected one value; put -m before ",
    ),
    "setting of one network": (
        ("train.py", "-m", "data=digits", "network=mlp,cnn", "network.hidden=[4]"),
        "data=digits network=cnn network.hidden=[4]: network.hidden is no setting here",
    ),
    "plan of a sweep": (
        ("train.py", "-m", "data=digits", "fleet.models=-1,8", "plan=true"),
        "data=digits fleet.models=-1 plan=True: fleet.models=-1: expected an integer >= 1 and <= 100000; ",
    ),
    "widths": ((*ONE_MODEL, "data=digits", "network.hidden=3"), "network.hidden=3: expected a list, each"),
    "no network": ((*ONE_MODEL, "data=digits", "network._target_=torch.nn.Nope"), "torch.nn.Nope"),
    "diverged": (
        (*ONE_MODEL, "data=digits", "trainer.optimizer.lr=1e30", "trainer.epochs=2"),
        "model 0 diverged: its weights are not finite; lower trainer.optimizer.lr",
    ),
    "no attack": (("evaluate.py", "data=digits", "attack=[]"), "attack: not given, expected a group"),
    "no file named": (("evaluate.py", "data=csv"), "data.path: not given, expected a file; add it, or "),
    "elsewhere": (("evaluate.py", "data=digits", "name=../a"), "name=../a: expected the name of a folder in reports;"),
    "the folder above": (("evaluate.py", "data=digits", "name=.."), "name=..: expected the name of a folder in "),
    "sweep without -m": (("train.py", "experiment=smoke"), "is a sweep of 2 grids; put -m before the settings"),
    "neither quiet nor loud": (("train.py", "data=digits", "quiet=5"), "quiet=5: expected true or false; "),
    "quiet evaluation": (("evaluate.py", "data=digits", "quiet=maybe"), "quiet=maybe: expected true or false; "),
    "guard of nothing": (
        ("train.py", "data=digits", "guard=topk", "guard.k=10"), "guard.k=10: expected at most 8, ",
    ),
    "no such runs": (("evaluate.py", "data=digits"), "data=digits: expected a complete run, runs/ holds nothing"),
    "neither": (("evaluate.py",), "neither data nor runs is given; add data=<name> or runs=<folder or pattern>"),
    "no run to ship": (("train.py", "ship=runs/nothing"), "runs/nothing is no complete run"),
}  # fmt: skip
FEW_RECORDS = (
    "no data", "unknown data", "unknown key", "batch above N", "missing file", "corrupted file", "NaN", "labels",
    "not writable", "epsilon", "delta", "batch norm", "no path", "seed", "epochs", "no optimizer", "no split",
    "fleet of nothing", "plan of a sweep", "no network", "diverged", "no attack", "elsewhere", "sweep without -m",
    "quiet evaluation", "guard of nothing", "no such runs", "no run to ship",
)  # fmt: skip
"""One of each kind of mistake; the others take another way to the same line."""
OWN_NETWORK = """
from torch import nn

class Normed(nn.Sequential):
    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))
"""


@pytest.mark.parametrize(
    "case", [case if case in FEW_RECORDS else pytest.param(case, marks=pytest.mark.slow) for case in BAD_COMMANDS]
)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 4)), np.arange(60) % 2
    np.savez(tmp_path / "labels.npz", x=x, y=y + 1)
    np.savez(tmp_path / "nan.npz", x=np.where(np.arange(240).reshape(60, 4) == 7, np.nan, x), y=y)
    (tmp_path / "corrupt.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:500])
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    words, message = BAD_COMMANDS[case]
    done = call(*words, folder=tmp_path, path=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("secret"))


def test_runs_that_differ_in_more_than_the_defense_are_refused(swept):
    other = ["data=digits", "fleet.models=1", "fleet.workers=1", "trainer.epochs=2", "split.pool=0.5"]
    call("train.py", *other, folder=swept)
    done = call("evaluate.py", "data=digits", folder=swept)
    assert done.returncode == 2
    assert "trainer.epochs" in done.stderr and "split.pool" in done.stderr and "runs=" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    report = json.loads((swept / "reports" / "digits" / "report.json").read_text())
    assert report  # the earlier report is untouched


def test_words_that_a_schema_lacks_are_told_in_one_line_once(tmp_path):
    rows = [f"{age},{'north' if age % 2 else 'east'},{'ny'[age % 3 == 0]}" for age in range(20, 80)]
    (tmp_path / "people.csv").write_text("\n".join(["age,ward,ill", *rows]))
    (tmp_path / "s.yaml").write_text("columns: {age: {center: 50, scale: 20}, ward: {categories: [north]}}")
    data = ("data=csv", "data.path=people.csv", "data.label=ill", "data.schema=s.yaml", "split.pool=40")
    for words in (("train.py", "plan=true"), ("train.py", "fleet.models=1")):
        done = call(*words, *data, "trainer.epochs=1", "trainer.batch_size=10", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if "no category" in line or "UnknownWords" in line]
        assert lines == [
            "warning: data people: rows hold words that are no category: 30 of ward, such as 'east'",
        ]
