"""Audits of records of which a person has several."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import referee_persons
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.attacks import LossThreshold
from palisade.evaluate import evaluate_runs
from palisade.evaluation.measuring.baselines import blind_scores
from palisade.evaluation.measuring.one_model import measure_model
from palisade.evaluation.result import AUC
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.evaluation.subjects.answers import AnsweredRecords, joined, view_of
from palisade.evaluation.subjects.saved_records import read
from palisade.evaluation.subjects.subject import ModelSubject

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[2]
ENDPOINT_WORDS = ("audit=endpoint", "endpoint=my_visits.predict", "members=in.csv", "nonmembers=out.csv", "label=ill")


def side(seed: int, persons: np.ndarray, known: bool = True) -> AnsweredRecords:
    """Answers that are alike for records of one person, and no better for members."""
    rng = np.random.default_rng(seed)
    _, person = np.unique(persons, return_inverse=True)
    margin = rng.normal(size=person.max() + 1)[person] + 0.1 * rng.normal(size=len(person))
    logits, labels = np.stack([margin, np.zeros(len(person))], axis=1), np.zeros(len(person), dtype=np.int64)
    of_side = persons if known else None
    return AnsweredRecords(name=f"side {seed}", labels=labels, level="logits", answers=logits, persons=of_side)


def misses(known: bool, trials: int = 16) -> int:
    """Number of intervals of the AUC that exclude ½ though nothing leaks."""
    person, missed = np.arange(300) // 10, 0
    for trial in range(trials):
        one, other = side(2 * trial, person, known), side(2 * trial + 1, person + 30, known)
        subject = ModelSubject(members=one, nonmembers=other)
        row = measure_model(subject, [LossThreshold()], Grant()).get(AUC, attack="loss")
        assert row.low is not None and row.high is not None
        missed += not row.low <= 0.5 <= row.high
    return missed


@pytest.mark.slow
def test_intervals_over_persons_hold_their_level() -> None:
    assert misses(known=True) <= 3
    assert misses(known=False) >= 5, "intervals over records are too narrow"


def test_the_simulated_coverage_knows_the_truth() -> None:
    for gap in (0.0, 1.0):
        case = referee_persons.PersonCase(10, persons=4000, gap=gap)
        scores, members, persons = referee_persons.answers(case, seed=0)
        assert roc_auc(scores, members) == pytest.approx(case.truth, abs=0.02)
        assert not set(persons[members]) & set(persons[~members]) and members.sum() == 40_000


def test_a_person_is_on_one_side() -> None:
    with pytest.raises(ValueError, match="records of 1 same persons"):
        view_of(side(0, np.arange(20)), side(1, np.arange(19, 39)), None, Grant())
    with pytest.raises(ValueError, match="only one of side 0 and side 1 holds persons"):
        view_of(side(0, np.arange(20)), side(1, np.arange(20, 40), known=False), None, Grant())


HUGE_NUMBER = 2**53


def test_numbers_of_persons_lose_no_digit_between_types() -> None:
    """As floats, odd numbers from 2^53 on are those of their even neighbors, and 2^64 − 1 is no int64."""
    one, other = HUGE_NUMBER + np.arange(0, 40, 2), HUGE_NUMBER + 1 + np.arange(0, 40, 2)
    for kinds in (("uint64", "int64"), ("int64", "uint64"), ("uint64", "int8")):
        apart = other if kinds[1] != "int8" else np.arange(20)
        members, nonmembers = side(0, one.astype(kinds[0])), side(1, apart.astype(kinds[1]))
        seen = view_of(members, nonmembers, None, Grant())
        assert seen.persons is not None and len(np.unique(seen.persons)) == 40
        both = joined(members, nonmembers)
        further = side(2, HUGE_NUMBER + 100 + np.arange(20))
        assert view_of(both, further, None, Grant()).records == 60
        with pytest.raises(ValueError, match="records of 20 same persons"):
            view_of(both, side(2, one.astype(kinds[1] if kinds[1] != "int8" else "int64")), None, Grant())
    largest = np.uint64(2**64 - 1) - np.arange(20, dtype=np.uint64)
    assert view_of(side(0, largest), side(1, -1 - np.arange(20)), None, Grant()).records == 40


def run(*overrides: str) -> None:
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(compose("evaluate", list(overrides)), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(overrides)})


@pytest.fixture
def visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten alike visits of each of 60 persons, half of them members, and a model that one trait of theirs decides."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 10)
    table = pd.DataFrame({"trait": rng.normal(size=60)[person], "age": rng.normal(size=600), "patient": person})
    table["ill"] = 0
    table[:300].to_csv("in.csv", index=False)
    table[300:].to_csv("out.csv", index=False)
    module = ModuleType("my_visits")

    def predict(rows: pd.DataFrame) -> np.ndarray:
        ill = 1 / (1 + np.exp(-rows["trait"] - 0.1 * rows["age"]))
        return np.stack([1 - ill, ill], axis=1)

    module.predict = predict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_visits", module)
    return tmp_path


def auc_rows(folder: str) -> dict[str, tuple[float, float, float]]:
    with Path(f"reports/{folder}/results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == AUC and row["group"] == "all" and row["low"]]
    return {row["attack"]: (float(row["value"]), float(row["low"]), float(row["high"])) for row in rows}


def test_a_column_of_a_table_names_persons(visits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*ENDPOINT_WORDS, "attack=loss", "person=patient")
    printed = " ".join(capsys.readouterr().out.split())
    assert "95 % intervals over persons" in printed
    page = Path("reports/audit_endpoint/report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert page.count("over persons") >= 3, "in verdict, meaning and table"
    assert "over records" not in page and "300 members of 30 persons" in page
    content = json.loads(Path("reports/audit_endpoint/report.json").read_text())
    assert content["intervals_over"] == "persons"
    run(*ENDPOINT_WORDS, "attack=loss", "name=rows")
    printed = " ".join(capsys.readouterr().out.split())
    assert "over persons" not in printed
    grouped, single = auc_rows("audit_endpoint")["loss"], auc_rows("rows")["loss"]
    assert grouped[0] == single[0], "who it is changes no answer"
    assert grouped[2] - grouped[1] > 1.5 * (single[2] - single[1])


def test_the_blind_baseline_is_fitted_without_the_persons_that_it_scores() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(100), 10)
    members, features = person < 50, rng.normal(size=(100, 3))[person]
    labels = np.zeros(1000, dtype=np.int64)
    assert roc_auc(blind_scores(features, labels, members), members) > 0.9, "others of one tell its side"
    assert abs(roc_auc(blind_scores(features, labels, members, person), members) - 0.5) < 0.2


def test_records_in_question_of_few_persons_are_asked_about(visits: Path) -> None:
    pd.read_csv("in.csv")[:20].to_csv("mine.csv", index=False)
    words = ("audit=records", "endpoint=my_visits.predict", "records=mine.csv", "nonmembers=out.csv", "label=ill")
    run(*words, "person=patient")
    content = json.loads(Path("reports/audit_records/report.json").read_text())
    assert content["what"].startswith("endpoint my_visits.predict: 20 records of 2 persons, 300 non-members of 30")
    assert "several records a person" in {flag["name"] for flag in content["flags"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("person=doctor",), r"^person=doctor: expected a column of in\.csv; choose one of trait, age, patient"),
        (("person=ill",), r"^person=ill: expected another column than that of label"),
        (("person=gap", "members=gaps.csv"), r"gaps\.csv: gap has no value in 300 rows; fill them"),
        (("person=patient", "members=few.csv"), r"few\.csv holds records of 2 persons; give those of at least 10"),
        (
            ("person=patient", "members=in.npz"),
            r"person=patient: expected a column of a \.csv file, and members=in\.npz is",
        ),
        (("person=patient", "nonmembers=both.csv"), r"hold records of 30 same persons; give each person one side"),
    ],
)
def test_what_names_no_persons(visits: Path, words: tuple[str, ...], message: str) -> None:
    table = pd.read_csv("in.csv")
    table.assign(gap=np.nan).to_csv("gaps.csv", index=False)
    table[:20].to_csv("few.csv", index=False)
    table.assign(age=table["age"] + 1).to_csv("both.csv", index=False)
    np.savez("in.npz", features=table[["trait", "age"]].to_numpy(), labels=table["ill"].to_numpy())
    with pytest.raises(ValueError, match=message) as error:
        run(*ENDPOINT_WORDS, "attack=loss", *words)
    assert "\n" not in str(error.value)


def test_saved_answers_of_persons_are_no_table(visits: Path) -> None:
    for words in (("members=in.csv", "nonmembers=out.csv"), ("members=in.csv", "nonmembers=out.npz", "+label=ill")):
        with pytest.raises(ValueError, match=r"^members=in\.csv: expected an \.npz file, .* with `persons`"):
            run("audit=outputs", *words)


def test_persons_of_tables_are_words(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("age,ill,patient\n40,0,007\n50,1,7\n60,1,007\n")
    result = read("members", str(tmp_path / "in.csv"), "ill", "patient")
    assert result.persons is not None and result.persons.tolist() == ["007", "7", "007"]
    assert result.rows is not None and list(result.rows) == ["age"], "who it is is nothing to predict from"
