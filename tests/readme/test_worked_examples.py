"""Worked examples of examples/: every command of their README, in its order, on fleets small enough for a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import Ended, call, commands_of

from palisade.commandline import EXIT_GATE_EXCEEDED

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parents[2]
EXAMPLES_FOLDER = REPOSITORY_ROOT / "examples"
DIABETES_FOLDER = REPOSITORY_ROOT.parent / "shared" / "data" / "diabetes130"
SMALL_SETTINGS = ("fleet.models=4", "trainer.epochs=10")


def ended(words: Sequence[str], folder: Path, run: str = "") -> Ended:
    """A command of a page, with the settings of a smaller fleet; what it prints goes where `>` says."""
    named = [
        word.replace("linear-dp_sgd-<hash>", run).replace("../shared/data", str(DIABETES_FOLDER.parent))
        for word in words
    ]
    program, *named = named
    named, files = (named[: named.index(">")], named[named.index(">") + 1 :]) if ">" in named else (named, [])
    script = named.pop(0) if program == "python" else Path(sys.executable).with_name(program)
    if script == "train.py" and not named[0].startswith("ship="):
        named += SMALL_SETTINGS
    done = call(script, *named, folder=folder)
    for file in files:
        (folder / file).write_text(done.stdout, encoding="utf-8")
    judged = any(word.startswith(("gate.", "choose.")) for word in named)  # fleets this small resolve little
    assert done.returncode == 0 or (judged and done.returncode == EXIT_GATE_EXCEEDED), f"{words}\n{done.stderr}"
    return done


def run_of(report: Path, title: str) -> str:
    """The folder's name of the run of that title; before there is a report, anything."""
    if not report.exists():
        return "none"
    (name,) = [run["run"] for run in json.loads(report.read_text(encoding="utf-8"))["runs"] if run["title"] == title]
    return str(name)


@pytest.mark.skipif(not DIABETES_FOLDER.is_dir(), reason="no diabetes130 under ../shared/data")
def test_a_hospital_goes_from_its_table_to_the_signed_page(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES_FOLDER)
    report = tmp_path / "reports" / "diabetes130" / "report.json"
    commands = commands_of(EXAMPLES_FOLDER / "hospital" / "README.md")
    assert len(commands) == 9
    for words in commands:
        ended(words, tmp_path, run_of(report, "dp_sgd ε=8 per person (≤ 2 records)"))

    stays, others = (pd.read_csv(tmp_path / name, dtype=str) for name in ("stays.csv", "others.csv"))
    assert stays["patient_nbr"].nunique() == 3000 and not set(stays["patient_nbr"]) & set(others["patient_nbr"])
    assert not stays["discharge_disposition"].str.contains("Expired|Hospice").any()
    content = json.loads(report.read_text(encoding="utf-8"))
    assert len(content["runs"]) == 8
    groups = {row["group"] for run in content["runs"] for row in run["rows"]}
    assert {"gender=Female", "race=AfricanAmerican", "age=[70-80)"} <= groups
    card = json.loads((tmp_path / "released" / "diabetes130-linear-dp_sgd" / "card.json").read_text(encoding="utf-8"))
    assert card["statement"]["unit"] == "person" and card["data"]["persons"] == 3000
    assert set(card["preprocessing"]["columns"]).isdisjoint({"encounter_id", "patient_nbr", "diag_1", "payer_code"})
    assert not any("preprocessing" in gap for gap in card["statement"]["not_covered"])
    audit = json.loads((tmp_path / "reports" / "release" / "report.json").read_text(encoding="utf-8"))
    assert f"{len(stays):,} members of 3,000 persons, {len(others):,} non-members" in audit["what"]
    page = report.with_name("impact_assessment.md").read_text(encoding="utf-8")
    assert "of 13,000 persons" in page and "records of 3,000 persons; the others are for tests" in page
    assert "Test ROC AUC: **" in page and "name, date, signature" in page


def test_a_bank_tests_on_a_file_of_its_own_and_reads_results_by_sex_and_age(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES_FOLDER)
    rng = np.random.default_rng(0)
    (tmp_path / "adult.data").write_text("".join(adults(rng, 600)))
    (tmp_path / "adult.test").write_text("|1x3 Cross validator\n" + "".join(adults(rng, 300, ending=".")))
    commands = commands_of(EXAMPLES_FOLDER / "income" / "README.md")
    assert len(commands) == 5
    report = tmp_path / "reports" / "income" / "report.json"
    for words in commands:
        runs = json.loads(report.read_text(encoding="utf-8"))["runs"] if report.exists() else []
        ended(words, tmp_path, next((run["run"] for run in runs if run["defense"] == "dp_sgd"), ""))

    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["released"]["facts"]["classes"] == ["<=50K", ">50K"]
    groups = {row["group"] for run in content["runs"] for row in run["rows"]}
    assert {"sex=Female", "age_band=60 and over"} <= groups
    card = json.loads((tmp_path / "released" / "income-linear-dp_sgd" / "card.json").read_text(encoding="utf-8"))
    assert card["data"]["records"] == 600, "the people of the second file are for testing alone"
    columns = card["preprocessing"]["columns"]
    assert columns["workclass"]["fill"] and set(columns).isdisjoint({"fnlwgt", "age_band"})
    assert any("preprocessing" in gap for gap in card["statement"]["not_covered"]), "the schema was not edited"


def adults(rng: np.random.Generator, people: int, ending: str = "") -> list[str]:
    """Lines of the form of UCI Adult, with a `?` for what is missing."""

    def words(*choices: str, missing: float = 0.0) -> np.ndarray:
        return np.where(rng.random(people) < missing, "?", rng.choice(choices, people))

    age, years = rng.integers(17, 91, people), rng.integers(1, 17, people)
    income = np.where(years + age / 10 + rng.normal(0, 2, people) > 14, ">50K", "<=50K")
    columns = (
        age, words("Private", "State-gov", missing=0.1), rng.integers(10_000, 900_000, people),
        words("HS-grad", "Bachelors"), years, words("Divorced", "Never-married"), words("Sales", "Repair", missing=0.1),
        words("Husband", "Wife"), words("White", "Black"), words("Female", "Male"), rng.integers(0, 9, people) * 1000,
        rng.integers(0, 9, people) * 100, rng.integers(10, 80, people), words("Cuba", "Mexico", missing=0.1), income,
    )  # fmt: skip
    return [f"{', '.join(map(str, row))}{ending}\n" for row in zip(*columns, strict=True)]
