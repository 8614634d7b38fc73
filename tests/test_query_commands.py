"""`evaluate.py study=queries` as a user calls it, and the report and the release after it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import call

from palisade.targets.shipping import AUDIT_LIMITS

pytestmark = pytest.mark.slow

FLEET_WORDS = (
    "data=digits", "fleet.models=3", "fleet.workers=1", "network.hidden=[]", "trainer.epochs=2", "split.pool=400",
    "split.population=0.1", "secret=limits",
)  # fmt: skip
STUDY_WORDS = ("data=digits", "attack=quick", "study=queries", "study.queries=[1,2]", "study.records=[10,1000]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("limits")
    done = call("train.py", *FLEET_WORDS, folder=place)
    assert done.returncode == 0, done.stderr
    return place


def test_the_study_is_printed_written_and_in_the_next_report(folder: Path) -> None:
    done = call("evaluate.py", *STUDY_WORDS, folder=folder, drawn=True)
    assert done.returncode == 0, done.stderr
    for word in ("queries a record", "different records a key", "undefended, top-3", "all 400 records of the pool"):
        assert word in " ".join(done.stdout.split()), word
    report = folder / "reports" / "digits"
    with (report / "queries" / "study.csv").open(newline="") as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert {"members_found", "strongest_tpr@1%fpr", "tpr@1%fpr", "auc"} <= metrics
    assert (report / "queries" / "study.png").read_bytes().startswith(b"\x89PNG")

    assert call("evaluate.py", "data=digits", "attack=quick", folder=folder).returncode == 0
    assert len(json.loads((report / "report.json").read_text())["queried"]["points"]) == 4 * 4
    assert call("evaluate.py", "data=digits", "attack=quick", "threat=label_only", folder=folder).returncode == 0
    assert "queried" not in json.loads((report / "report.json").read_text()), "it was measured under another threat"


def test_the_card_says_that_limits_change_nothing(folder: Path) -> None:
    assert call("evaluate.py", "data=digits", "attack=quick", folder=folder).returncode == 0
    (run,) = (folder / "runs" / "digits").iterdir()
    assert call("train.py", f"ship={run}", folder=folder).returncode == 0
    (card,) = (folder / "released").glob("*/card.json")
    assert json.loads(card.read_text())["audit"]["limits"] == AUDIT_LIMITS
    assert AUDIT_LIMITS in card.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("word", "begins"),
    [
        ("plan=true", "plan=true: expected false with study=…"),
        ("threat=white_box", "threat.weights=true: expected false with study=queries"),
        ("study.records=[]", "study.records=[]: expected"),
        ("study.queries=[1000000]", "study.queries=[1000000]: expected"),
        ("report.scope=public", "report.scope=public: expected internal with study=…"),
    ],
)
def test_bad_input_is_one_line(folder: Path, word: str, begins: str) -> None:
    done = call(
        "evaluate.py", *[own for own in STUDY_WORDS if own.split("=")[0] != word.split("=")[0]], word, folder=folder
    )
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {begins}"), done.stderr
