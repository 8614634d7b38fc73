"""`evaluate.py audit=…` as a user calls it: saved answers, a model file, an endpoint, records in question."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from commands import call as quick
from hydra import compose as composed
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from palisade.evaluate import evaluate_runs

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parent.parent


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(REPOSITORY_ROOT / "evaluate.py"), *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def run(*overrides: str) -> None:
    """Runs the command in this process."""
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(composed("evaluate", list(overrides)), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(overrides)})


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Answers of a model that fits members better, with the records themselves; a package that asks it."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    weights = rng.normal(size=(4, 3))
    for name, fit, count in (
        *(("in", 2.0, 150), ("out", 0.0, 250), ("more", 0.0, 150)),
        *(("shadow_in", 2.0, 150), ("shadow_out", 0.0, 150)),
    ):
        labels, features = rng.integers(3, size=count), rng.normal(size=(count, 4)).astype(np.float32)
        logits = features @ weights
        logits[np.arange(count), labels] += fit * rng.exponential(size=count)
        np.savez(f"{name}.npz", logits=logits, labels=labels, features=features)
        np.savez(f"{name}_records.npz", features=features, labels=labels)
    module = ModuleType("my_package")
    module.asked = []

    def predict(x):
        module.asked.extend(x)
        return np.exp(x @ weights) / np.exp(x @ weights).sum(axis=1, keepdims=True)

    module.predict = predict
    monkeypatch.setitem(sys.modules, "my_package", module)
    return tmp_path


SIDE_SETTINGS = ("members=in.npz", "nonmembers=out.npz")
RECORD_SETTINGS = ("members=in_records.npz", "nonmembers=out_records.npz")


def test_saved_answers_without_torch(files):
    done = call("audit=outputs", *SIDE_SETTINGS, "attack=quick", folder=files)
    assert done.returncode == 0, done.stderr
    assert "blind baseline" in done.stdout and "reports/audit_outputs/report.html" in done.stdout
    assert "needs shadow models" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "numpy" in imported and not imported & {"torch", "pytorch_lightning", "opacus"}
    report = json.loads((files / "reports" / "audit_outputs" / "report.json").read_text())
    assert report["command"] == "python evaluate.py audit=outputs members=in.npz nonmembers=out.npz attack=quick"
    assert report["members"] == 150 and report["scope"] == "internal"


def test_errors_take_one_line_and_exit_with_2(files):
    done = call("audit=outputs", "members=in.npz", folder=files)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert line == "error: nonmembers: not given, expected a file; add nonmembers=<file.npz or file.csv>"


def test_what_is_no_audit_is_refused(files):
    with pytest.raises(ValueError, match=r"^audit\.name=abc"):
        run("audit=outputs", *SIDE_SETTINGS, "audit.name=abc")


def test_a_model_file(files, monkeypatch):
    import torch
    from safetensors.torch import save_file
    from torch import nn

    torch.manual_seed(0)  # of untrained weights, some give one class everywhere
    sys.modules["my_package"].MyNet = lambda inputs: nn.Linear(inputs, 3)
    save_file(nn.Linear(4, 3).state_dict(), "mine.safetensors")
    named = ("model=mine.safetensors", "network._target_=my_package.MyNet", "+network.inputs=4", "name=mine")
    run("audit=model", *named, *RECORD_SETTINGS, "population=more_records.npz", "attack=[loss,population,boundary]",
        "attack.boundary.records=4", "attack.boundary.budget=60")  # fmt: skip
    report = json.loads(Path("reports/mine/report.json").read_text())
    assert set(report["needs"]) == {"loss", "population", "boundary"} and report["what"].startswith(
        "model mine.safetensors"
    )


def test_an_endpoint_is_asked_once(files, capsys):
    words = ("audit=endpoint", "endpoint=my_package.predict", *RECORD_SETTINGS, "attack=loss")
    with pytest.raises(ValueError, match="budget=200"):
        run(*words, "budget=200")
    asked = sys.modules["my_package"].asked
    assert len(asked) == 0
    run(*words, "budget=400")
    capsys.readouterr()
    run(*words, "budget=400")
    assert len(asked) == 404
    page = Path("reports/audit_endpoint/report.html").read_text()
    reuse = "400 of 400 answers about records are those that an earlier audit kept; 4 of them were asked for again"
    assert "endpoint my_package.predict" in page and reuse in page
    assert reuse in " ".join(capsys.readouterr().out.split())


def test_a_gate_does_not_judge_what_was_there_before(files, monkeypatch):
    words = ("audit=endpoint", "endpoint=my_package.predict", *RECORD_SETTINGS, "attack=loss", "gate.max_tpr=0.99")
    run(*words)
    leaking = sys.modules["my_package"].predict
    monkeypatch.setattr(sys.modules["my_package"], "predict", lambda x: leaking(2 * x))
    with pytest.raises(ValueError, match="the model behind it has changed, or it answers at random; remove reports/"):
        run(*words)


def test_an_attack_that_the_budget_does_not_suffice_for_is_skipped(files, capsys):
    attack = ("attack=[loss,boundary]", "attack.boundary.records=4", "attack.boundary.budget=60")
    run("audit=endpoint", "endpoint=my_package.predict", *RECORD_SETTINGS, *attack, "budget=450")
    report = json.loads(Path("reports/audit_endpoint/report.json").read_text())
    assert report["skipped"] == {
        "boundary": "needs up to 60 queries a record; the budget of queries is spent, raise it with budget=<queries>:"
        " answers so far are kept"
    }
    assert set(report["needs"]) == {"loss"} and len(sys.modules["my_package"].asked) <= 450
    assert len(capsys.readouterr().err.splitlines()) == 1, "of progress"


def test_code_that_ends_the_process_passes_no_gate(files):
    (files / "ending.py").write_text("import sys\n\n\ndef predict(x):\n    sys.exit(0)\n")
    (files / "leaving.py").write_text("raise SystemExit\n")
    for name, code in (("ending.predict", 0), ("leaving.predict", None)):
        done = quick(
            "evaluate.py",
            "audit=endpoint",
            f"endpoint={name}",
            *RECORD_SETTINGS,
            "gate.max_tpr=1.0",
            folder=files,
            path=files,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr
            == f"error: audit=endpoint: expected code that returns, and it called sys.exit({code}); let it raise an"
            " error\n"
        )


def test_records_in_question_from_saved_answers_and_from_an_endpoint(files):
    run("audit=records", "records=in.npz", "nonmembers=out.npz")
    with Path("reports/audit_records/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (
        len(rows) == 150
        and float(json.loads(Path("reports/audit_records/report.json").read_text())["all_together"]["p"]) < 1e-6
    )
    np.testing.assert_array_equal([int(row["label"]) for row in rows], np.load("in.npz")["labels"])
    run(
        "audit=records",
        "records=more_records.npz",
        "nonmembers=out_records.npz",
        "endpoint=my_package.predict",
        "name=b",
    )
    assert json.loads(Path("reports/b/report.json").read_text())["all_together"]["p"] > 0.01


def test_how_much_was_used_with_known_members_and_without(files):
    saved, unused = dict(np.load("in.npz")), dict(np.load("more.npz"))
    np.savez("half.npz", **{key: np.concatenate([saved[key][:70], unused[key][:70]]) for key in saved})
    np.savez("known.npz", **{key: values[70:] for key, values in saved.items()})
    words = ("audit=records", "records=half.npz", "nonmembers=out.npz")
    run(*words)
    bounded = json.loads(Path("reports/audit_records/report.json").read_text())["used_share"]
    assert bounded["value"] is None and bounded["low"] < 0.5 and bounded["high"] == 1.0
    run(*words, "members=known.npz")
    report = json.loads(Path("reports/audit_records/report.json").read_text())
    used = report["used_share"]
    assert used["known"] == 80 and used["low"] < 0.5 < used["high"] and abs(used["value"] - 0.5) < 0.25
    assert report["records"] == len(report["rows"]) == 140, "known members are not in question"
    labels = np.load("half.npz")["labels"]
    np.testing.assert_array_equal([row["label"] for row in report["rows"]], labels, err_msg="in the order of the file")
    np.savez("twice.npz", **{key: values[60:] for key, values in saved.items()})
    with pytest.raises(ValueError, match="share 10 records; remove them from the members"):
        run(*words, "members=twice.npz")


def test_labels_alone(files):
    for name in ("in", "out"):
        saved = np.load(f"{name}.npz")
        np.savez(f"{name}_labels.npz", predictions=saved["logits"].argmax(axis=1), labels=saved["labels"])
    run("audit=outputs", "members=in_labels.npz", "nonmembers=out_labels.npz", "threat=label_only", "attack=quick")
    report = json.loads(Path("reports/audit_outputs/report.json").read_text())
    assert report["released"] == "label" and list(report["needs"]) == ["correctness"]


@pytest.mark.parametrize("level", ["probabilities", "predictions"])
def test_one_file_is_no_two_sides_whatever_it_holds(files, level):
    logits = np.load("in.npz")["logits"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = probabilities if level == "probabilities" else probabilities.argmax(axis=1)
    np.savez("one.npz", labels=np.load("in.npz")["labels"], **{level: answers})
    (files / "link.npz").symlink_to("one.npz")
    for words in (("audit=outputs", "members=one.npz", "gate.max_tpr=0.05"), ("audit=records", "records=one.npz")):
        with pytest.raises(ValueError, match=r"=one\.npz and nonmembers=link\.npz hold the same records; give each"):
            run(*words, "nonmembers=link.npz")


def test_the_gate_exits_with_4(files, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("audit=outputs", *SIDE_SETTINGS, "attack=loss", "gate.max_tpr=0.05")
    assert stopped.value.code == 4 and "EXCEEDED" in capsys.readouterr().out
    run("audit=outputs", *SIDE_SETTINGS, "attack=loss", "gate.max_tpr=1.0")
    assert "kept as far as an audit without shadows can tell: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("audit=outputs", "members=in.npz", "nonmembers=in.npz"), "hold the same records; give each records of its"),
        (("audit=outputs", "members=in.npz", "nonmembers=copied.npz"), "hold the same records; give each records of"),
        (
            ("audit=outputs", *SIDE_SETTINGS, "population=./out.npz"),
            "hold the same records; give each records of its own: n",
        ),
        (("audit=outputs", *RECORD_SETTINGS), "in_records.npz holds no answers; save logits"),
        (("audit=records", "records=in.npz", "nonmembers=in.npz"), "hold the same records; give each records of its"),
        (
            ("audit=records", "records=in.npz", "nonmembers=mixed.npz"),
            "holds 150 of the records in question; remove th",
        ),
        (("audit=records", "nonmembers=in.npz"), "records: not given, expected a file; add records="),
        (("audit=model", *RECORD_SETTINGS), "model: not given, expected a model to ask; add model=<it>"),
        (("audit=endpoint", *RECORD_SETTINGS), "endpoint: not given, expected a model to ask; add endpoint=<it>"),
        (
            ("audit=model", "model=a.pt2", "release=b", *RECORD_SETTINGS),
            "release=b: expected null with model; audit one model",
        ),
        (
            ("audit=endpoint", "endpoint=my_package.predict", "members=a.npz", "nonmembers=out.npz"),
            "members=a.npz: expected an .npz file or a table",
        ),
        (
            ("audit=outputs", *SIDE_SETTINGS, "choose.max_tpr=0.1"),
            r"choose\.max_tpr=0\.1: expected null with audit=outputs",
        ),
        (
            ("audit=records", "records=in.npz", "nonmembers=out.npz", "gate.max_tpr=0.1"),
            r"gate\.max_tpr=0\.1: expected null with audit=records",
        ),
        (
            ("audit=outputs", *SIDE_SETTINGS, "report.scope=public"),
            r"report\.scope=public: expected internal with audit=…",
        ),
    ],
)
def test_what_cannot_be_audited(files, overrides, message):
    saved = [np.load(name) for name in ("in.npz", "out.npz")]
    np.savez("mixed.npz", **{key: np.concatenate([one[key] for one in saved]) for key in saved[0]})
    shutil.copy("in.npz", "copied.npz")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(*overrides)
    assert "\n" not in str(error.value)


def test_every_command_of_the_page_works(files, compose):
    import pandas as pd
    from safetensors.torch import save_file
    from torch import nn

    from palisade.data.secret import Secret
    from palisade.targets.shipping import ship

    sys.modules["my_package"].MyNet = lambda inputs: nn.Linear(inputs, 3)
    save_file(nn.Linear(4, 3).state_dict(), "mine.safetensors")
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"age": rng.normal(size=200), "sex": rng.choice(["f", "m"], 200)})
    people["diagnosis"] = np.where(people["age"] > 0, "ill", "well")
    for name, part in (("visits", people[:120]), ("mine", people[:20]), ("others", people[120:])):
        part.to_csv(f"{name}.csv", index=False)
    overrides = ["data=csv", "data.path=visits.csv", "data.label=diagnosis", "trainer.epochs=2", "fleet.models=1"]
    ship(compose(*overrides), [], Secret.from_text("s")).save(files / "released" / "visits")
    page = (REPOSITORY_ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        python, script, *words = command.split()
        assert (python, script) == ("python", "evaluate.py")
        run(*words, *([] if "audit=records" in words else ["attack=quick"]))
    assert {path.name for path in (files / "reports").iterdir()} == {
        "by_shadow",
        *(f"audit_{kind}" for kind in ("outputs", "model", "endpoint", "records")),
    }
    assert json.loads(Path("reports/by_shadow/report.json").read_text())["shadow_records"] == 300
    report = json.loads(Path("reports/audit_records/report.json").read_text())
    assert (
        report["records"] == 20 and report["nonmembers"] == 80 and report["what"].startswith("release released/visits")
    )
