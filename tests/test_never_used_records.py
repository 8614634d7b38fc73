"""`study.out`: records that were never used, put to trained models from a role, an .npz file or a table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ended, call

from palisade.evaluate import all_attacks
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.studies import never_used, study_runs
from palisade.evaluation.studies.never_used import CORRUPTED_COPIES, NEAR_DUPLICATES, NEEDS_THE_RECORD, keys_of
from palisade.evaluation.studies.studies import FALSELY_ACCUSED, StudyRow
from palisade.evaluation.studies.study_runs import run_study
from palisade.fields import as_written
from palisade.targets.run import Run
from palisade.train import composed, train_run

pytestmark = pytest.mark.slow

FLEET_SETTINGS = (
    "fleet.models=3",
    "fleet.workers=1",
    "network.hidden=[]",
    "trainer.epochs=1",
    "secret=outside",
    "split.pool=400",
)
ATTACK_NAMES = ("loss", "lira", "rmia_offline")
STANDARD_PROTOCOL = AttackProtocol(attacks={name: all_attacks()[name] for name in ATTACK_NAMES})


def trained(folder: Path, *words: str) -> Run:
    return Run(Path(train_run(composed(f"runs={folder / 'runs'}", *FLEET_SETTINGS, *words))["folder"]))


def study_of(run: Run, out: str) -> list[StudyRow]:
    return run_study({"name": "shadow_mismatch", "out": out}, [run], STANDARD_PROTOCOL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Run:
    return trained(folder, "data=digits", "split.population=0.1")


@pytest.fixture(scope="module")
def visits(folder: Path) -> Run:
    """A table with a column of numbers and one of words."""
    write_visits(folder / "visits.csv", 1000)
    return trained(folder, "data=csv", f"data.path={folder / 'visits.csv'}", "data.label=outcome")


def write_visits(path: Path, count: int, *, seed: int = 0, outcomes: tuple[str, str] = ("home", "stay")) -> Path:
    """A table in which no row is another's copy."""
    rng = np.random.default_rng(seed)
    ages, wards = rng.uniform(20, 90, count).round(5), rng.choice(["north", "south"], count)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["age", "ward", "outcome"])
        table.writerows(zip(ages, wards, np.where(ages + 20 * rng.normal(size=count) > 55, *outcomes), strict=True))
    return path


def check(rows: list[StudyRow], run: Run, out: str) -> None:
    """Every attack on every kind of record: a share with its interval, or the reason why there is none."""
    kinds = (out, CORRUPTED_COPIES, NEAR_DUPLICATES)
    assert {(row.setting, row.attack) for row in rows} >= {
        (kind, attack) for kind in kinds for attack in ("loss", "lira")
    }
    for row in rows:
        assert row.run == run.name and row.varied == "never used"
        if row.attack == "lira":
            assert row.value is None and row.note == NEEDS_THE_RECORD
        if row.attack == "loss":
            assert row.value is not None and row.low is not None and row.high is not None
            assert row.low <= row.value <= row.high and not row.note


def test_records_of_a_role(digits: Run) -> None:
    rows = study_of(digits, "test")
    check(rows, digits, "test")
    assert all(row.value is not None for row in rows if row.attack == "rmia_offline")
    (ordinary,) = [row for row in rows if (row.setting, row.attack) == ("test", "loss")]
    assert ordinary.low is not None and ordinary.low < 0.02, "test records are like the run's own non-members"


def test_the_population_is_no_outsider_of_an_attack_that_holds_it(digits: Run) -> None:
    notes = {row.attack: row.note for row in study_of(digits, "population") if row.setting == "population"}
    assert not notes["loss"] and "population" in notes["rmia_offline"]


def test_records_of_a_file_from_another_source(digits: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((120, *digits.dataset.shape), dtype=np.float32)
    np.savez(tmp_path / "noise.npz", features=features, labels=rng.integers(10, size=120))
    check(study_of(digits, str(tmp_path / "noise.npz")), digits, str(tmp_path / "noise.npz"))


def test_records_of_a_file_are_accused_as_those_of_the_role_they_are_from(digits: Run, tmp_path: Path) -> None:
    data = digits.dataset
    np.savez(tmp_path / "test.npz", features=data.x[data.split.test], labels=data.y[data.split.test])
    of_file, of_role = (
        [row.value for row in study_of(digits, out) if row.setting == out and row.attack == "loss"]
        for out in (str(tmp_path / "test.npz"), "test")
    )
    assert of_file == of_role


def test_rows_of_a_table_are_encoded_as_the_run_s_own(visits: Run, tmp_path: Path) -> None:
    other = write_visits(tmp_path / "other.csv", 150, seed=1)
    check(study_of(visits, str(other)), visits, str(other))


def test_words_that_the_run_does_not_know_are_reported(visits: Run, tmp_path: Path, capsys: Any) -> None:
    other = write_visits(tmp_path / "other.csv", 150, seed=1)
    other.write_text(other.read_text().replace("north", "west", 5))
    study_of(visits, str(other))
    assert "rows hold words that are no category: 5 of ward, such as 'west'" in capsys.readouterr().err


def test_records_of_the_pool_are_no_outsiders(digits: Run, visits: Run, tmp_path: Path) -> None:
    data = digits.dataset
    records = np.concatenate([data.split.test[:30], data.split.pool[:7]])
    mixed = saved(tmp_path / "mixed.npz", features=data.x[records].astype(np.float64), labels=data.y[records])
    relabeled = saved(
        tmp_path / "other.npz", features=data.x[data.split.pool[:30]], labels=(data.y[data.split.pool[:30]] + 1) % 10
    )
    assert study_of(digits, relabeled), "with other labels they are other records"
    own = str(write_visits(tmp_path / "own.csv", 1000))
    for run, out, count in ((digits, mixed, 7), (visits, own, len(visits.dataset.split.pool))):
        with pytest.raises(ValueError) as error:
            study_of(run, out)
        assert str(error.value) == (
            f"study.out={out}: {count} of its records are in the run's pool, where they may have been trained on;"
            " remove them"
        )


def test_canaries_set_no_threshold_for_records(digits: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    canaries = trained(tmp_path, "data=digits", "canary=label_noise", "canary.count=100")
    with pytest.raises(ValueError, match=r"^study\.out=test: .* without canary=…$"):
        run_study({"name": "shadow_mismatch", "out": "test"}, [canaries], STANDARD_PROTOCOL)
    rows = run_study({"name": "shadow_mismatch", "out": "test"}, [digits, canaries], STANDARD_PROTOCOL)
    assert {row.run for row in rows} == {digits.name}
    assert "left out: 1 of 2 runs" in capfd.readouterr().err


def test_a_key_changes_with_what_decides_the_rates_and_nothing_else(digits: Run, tmp_path: Path) -> None:
    keys = keys_of(digits, STANDARD_PROTOCOL)
    assert set(keys) == set(ATTACK_NAMES) and len(set(keys.values())) == len(ATTACK_NAMES)
    alone = keys_of(digits, AttackProtocol(attacks={"loss": STANDARD_PROTOCOL.attacks["loss"]}))
    assert alone["loss"] == keys["loss"], "other attacks decide nothing"
    labels_only = replace(STANDARD_PROTOCOL, threat={**STANDARD_PROTOCOL.threat, "outputs": "label"})
    others = {
        "threat": keys_of(digits, labels_only),
        "secret": keys_of(
            trained(tmp_path, "data=digits", "split.population=0.1", "secret=another"), STANDARD_PROTOCOL
        ),
    }
    extended = trained(tmp_path, "data=digits", "split.population=0.1", "secret=another", "fleet.models=4")
    assert extended.name == digits.name
    others["models"] = keys_of(extended, STANDARD_PROTOCOL)
    every = [key for named in (keys, *others.values()) for key in named.values()]
    assert len(set(every)) == 4 * len(ATTACK_NAMES)
    assert (
        keys_of(extended, replace(STANDARD_PROTOCOL, threat={**STANDARD_PROTOCOL.threat, "weights": True}))
        == others["models"]
    )


def test_nothing_else_is_measured_and_one_secret_is_enough(
    digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_runs, "attacked", None)
    twin = trained(tmp_path, "data=digits", "split.population=0.1", "defense=l2")
    assert twin.secret == digits.secret
    rows = run_study({"name": "shadow_mismatch", "out": "test"}, [digits, twin], STANDARD_PROTOCOL)
    assert {row.run for row in rows} == {digits.name, twin.name} and len({row.target for row in rows}) == 2
    assert {row.metric for row in rows} == {FALSELY_ACCUSED}


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def bad_files(folder: Path, shape: tuple[int, ...]) -> dict[str, str]:
    """Words of a setting that cannot be meant, each under words of the reason."""
    labels, features = np.zeros(20, dtype=np.int64), np.zeros((20, *shape), dtype=np.float32)
    (folder / "broken.npz").write_bytes(b"PK no archive")
    return {
        "expected a file or a role": "tests",
        "a role that holds records": "reference",
        "cannot be read": str(folder / "broken.npz"),
        "has no labels": saved(folder / "labels.npz", features=features),
        "features are missing": saved(folder / "features.npz", labels=labels, logits=np.zeros((20, 10))),
        "features are (3,)": saved(folder / "shape.npz", features=np.zeros((20, 3)), labels=labels),
        "label 10 is no class": saved(folder / "class.npz", features=features, labels=labels + 10),
        "file holds none": saved(folder / "none.npz", features=features[:0], labels=labels[:0]),
        "label 18446744073709551615 is no class": saved(
            folder / "unsigned.npz", features=features, labels=labels.astype(np.uint64) - np.uint64(1)
        ),
        "hold numbers that float32 cannot": saved(
            folder / "large.npz", features=np.full((20, *shape), 1e300), labels=labels
        ),
        "home of a user": "~nobodyhere/records.npz",
        "NaN": saved(folder / "nan.npz", features=features * np.nan, labels=labels),
        "are no table": str(write_visits(folder / "table.csv", 20)),
    }


def test_what_models_cannot_take_is_refused(digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(never_used, "accusations", None)  # it is refused before anything is attacked
    for reason, out in bad_files(tmp_path, digits.dataset.shape).items():
        with pytest.raises(ValueError) as error:
            study_of(digits, out)
        message = str(error.value)
        assert message.startswith(f"study.out={out}") and reason in message and "\n" not in message, message


def test_a_table_with_other_columns_or_classes_is_refused(visits: Run, tmp_path: Path) -> None:
    (tmp_path / "columns.csv").write_text("age,outcome\n30,home\n40,stay\n")
    classes = write_visits(tmp_path / "classes.csv", 20, outcomes=("yes", "no"))
    for out, reason in ((tmp_path / "columns.csv", "no column ward"), (classes, "is no class")):
        with pytest.raises(ValueError, match=reason) as error:
            study_of(visits, str(out))
        assert str(error.value).startswith(f"study.out={out}")


def evaluated(folder: Path, *words: str) -> Ended:
    return call("evaluate.py", "data=digits", "attack=[loss,lira,rmia_offline]", *words, folder=folder)


def test_the_command_prints_and_writes_it_and_the_report_tells(digits: Run, folder: Path) -> None:
    assert evaluated(folder).returncode == 0
    report = folder / "reports" / "digits" / "report.json"
    assert json.loads(report.read_text())["never_used"]["rates"] is None
    done = evaluated(folder, "study=shadow_mismatch", "study.out=test")
    assert done.returncode == 0, done.stderr
    for word in ("never used", "near-duplicates", "corrupted", "cannot score lira"):
        assert word in done.stdout
    with (report.parent / "never_used" / "study.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == FALSELY_ACCUSED]
    assert {row["run"] for row in rows} == {digits.name} and len(rows) == 3 * len(ATTACK_NAMES)
    assert evaluated(folder).returncode == 0
    rates = json.loads(report.read_text())["never_used"]["rates"]
    assert rates["rates"] == 6 and rates["unable"] == ["lira"] and (rates["runs"], rates["of"]) == (1, 1)
    assert rates["worst"]["value"] == round(max(float(row["value"]) for row in rows if row["value"]), 3)
    assert rates["worst"]["attack"] in report.with_suffix(".html").read_text()

    assert evaluated(folder, "threat=label_only").returncode == 0
    assert json.loads(report.read_text())["never_used"]["rates"] is None, "they were measured under another threat"


def test_bad_input_of_the_command_is_one_line(digits: Run, folder: Path) -> None:
    done = evaluated(folder, "study=shadow_mismatch", "study.out=nowhere.npz")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: study.out=nowhere.npz: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("out", [5, True, 1.5, ["a", "b"], {"a": 1}])
def test_what_names_nothing_is_refused(out: Any) -> None:
    with pytest.raises(ValueError) as error:
        run_study({"name": "shadow_mismatch", "out": out}, [], STANDARD_PROTOCOL)
    assert str(error.value).startswith(f"study.out={as_written(out)}: expected a text, or null; choose test, ")
