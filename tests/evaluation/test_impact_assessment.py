"""The impact assessment holds what a report says of one run, and blanks for everything else."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import Limit
from palisade.evaluation.report.permission import by_limit
from palisade.evaluation.report.run_report import _strict_json, summary
from palisade.evaluation.result import Result, Row

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[2]
RUN_FACTS: dict[str, Any] = {
    "records": 1797, "persons": 600, "pool_persons": 420, "classes": ["0", "1"], "roles": {"pool": 1258},
    "canaries": 0, "published": False, "checksum": "hmac-sha256:00ff",
}  # fmt: skip


@pytest.fixture
def report(sweep: Sequence[Result], tmp_path: Path) -> Path:
    content = json.loads(_strict_json(summary(Comparison(sweep), "python evaluate.py data=digits")))
    content["released"]["facts"] = RUN_FACTS
    (tmp_path / "report.json").write_text(json.dumps(content))
    return tmp_path / "report.json"


def called(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: object) -> tuple[int, str]:
    """The exit code of the command, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["impact_assessment.py", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(REPOSITORY_ROOT / "docs" / "impact_assessment.py"), run_name="__main__")
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out + printed.err


def test_it_is_filled_for_one_run(report: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, printed = called(monkeypatch, capsys, report, "dp_sgd ε=4")
    assert code == 0 and printed.strip() == str(report.with_name("impact_assessment.md"))
    page = report.with_name("impact_assessment.md").read_text(encoding="utf-8")
    for fact in (
        "# Data protection impact assessment: dp_sgd ε=4 on digits", "1,797 records of 600 persons, 2 classes",
        "| of these, trained on | 1,258 records of 420 persons; ",
        "section 1: 1,258 records of 420 persons are trained on",
        "Test accuracy: **91.0 % (95 % interval 90.2 to 91.8)**; without protection 97.0 %", "hmac-sha256:00ff",
        "the strongest attack tried, lira, reaches", "at 1 % false accusations: **1.4 % (95 % interval 1.0 to 1.7)**",
        "at 0.1 % false accusations: could not be measured", "differential privacy per record", "Not covered by it:",
        "in other words: of 1,000 people who were in, 14 (10 to 17) are found while 10 of 1,000 who were not",
        "- class=3: 1.4 %", "python evaluate.py data=digits", "Internal: it holds",
    ):  # fmt: skip
        assert fact in page, fact
    assert page.count("\\_\\_") > 15, "blanks"
    assert "{{" not in page and "{%" not in page and "None" not in page
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert [heading[3] for heading in headings] == list("12345678")


def test_what_standards_ask_for_is_answered_by_numbers(
    sweep: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (run,) = [result for result in sweep if result.strength == 4]
    measured = {
        "test_calibration_error": ("", 0.083),
        "balanced_accuracy": ("lira", 0.537),
        "ppv@1%prior": ("lira", 0.014),
    }
    rows = [Row(metric=metric, attack=attack, value=value) for metric, (attack, value) in measured.items()]
    comparison = Comparison([replace(run, rows=[*run.rows, *rows])])
    leave = [by_limit(comparison, Limit(name="gate", max_tpr=0.015))]
    content = json.loads(_strict_json(summary(comparison, "python evaluate.py", leave=leave)))
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert called(monkeypatch, capsys, tmp_path / "report.json")[0] == 0
    page = (tmp_path / "impact_assessment.md").read_text(encoding="utf-8")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    for asked, answer in {
        "OWASP AISVS 1.0, C11.3 Membership-Inference Mitigation, 11.3.1": "calibration error: 8.3 %",
        "11.3.2": "ε = 3.99, δ = 0.000834 per record",
        "11.3.3": "strongest attack: 53.7 %, guessing has 50 %; at 1 % false accusations it finds 1.4 %",
        "NIST AI 100-2 E2025, NISTAML.033 Membership Inference": "AUC 0.534",
        "GDPR, article 35(7)(a)": "section 1: 1,258 records are trained on",
        "35(7)(b)": "test accuracy 91.0 %",
        "35(7)(c)": "1.4 % (95 % interval 1.0 to 1.7) found",
        "35(7)(d)": "(ε = 3.99, δ = 0.000834)-differential privacy",
        "EDPB Opinion 28/2024, when a model may count as anonymous": "records are found in more than half",
        "HIPAA, 45 CFR 164.514(b)(1)(i)": "1.4 % of the accusations are right",
        "may it leave by that limit": "no",
        "limit agreed beforehand": "at most 15 are found while 10 of 1,000",
    }.items():
        assert answer in lines[asked], lines[asked]


def test_a_run_without_claim_and_one_with_infinite_epsilon(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("undefended", "dp_sgd ε=∞"):
        assert called(monkeypatch, capsys, report, name)[0] == 0
        page = report.with_name("impact_assessment.md")
        assert "What is proven: no formal guarantee" in page.read_text(encoding="utf-8")
        page.unlink()


def test_texts_that_come_out_are_a_risk_of_language_models(
    sweep: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = [
        Row(metric="extracted_greedy@8+10", group=group, value=value)
        for group, value in (("members", 0.12), ("nonmembers", 0.004))
    ]
    runs = [replace(sweep[-1], rows=[*sweep[-1].rows, *rows]), *sweep[:-1]]
    path = tmp_path / "report.json"
    path.write_text(_strict_json(summary(Comparison(runs), "python evaluate.py data=own")))
    pages = []
    for title in ("undefended", "dp_sgd ε=4"):
        code, printed = called(monkeypatch, capsys, path, title)
        assert code == 0, printed
        pages.append((filled := path.with_name("impact_assessment.md")).read_text(encoding="utf-8"))
        filled.unlink()
    assert "goes on word by word for 10 more with 120 of 1,000 texts that it was trained on, and with 4" in pages[0]
    assert [page.count("NISTAML.038 Data Extraction") for page in pages] == [1, 0]
    assert "give texts back" in pages[0] and "give texts back" not in pages[1]


def test_fields_filled_in_by_hand_stay(report: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = report.with_name("impact_assessment.md")
    page.write_text("signed")
    code, printed = called(monkeypatch, capsys, report, "undefended")
    assert code == 2 and printed.startswith(f"error: {page} is there already; move it away, since it may have been fil")
    assert page.read_text() == "signed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: the report holds 10 runs; add one of 'undefended', 'dp_sgd ε=1', "),
        (("l3",), "error: run=l3 is not in the report; add one of 'undefended', "),
    ],
)
def test_one_run_must_be_named(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: tuple[str, ...], message: str
) -> None:
    code, printed = called(monkeypatch, capsys, report, *words)
    assert code == 2 and printed.startswith(message)


def test_what_is_no_report_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for content in (b"{}", b"[]", b"no json", b"\xff\xfe"):
        (tmp_path / "report.json").write_bytes(content)
        code, printed = called(monkeypatch, capsys, tmp_path / "report.json")
        assert code == 2 and "report.json: expected a report.json of evaluate.py; run that again" in printed
    assert called(monkeypatch, capsys)[1].startswith(
        "error: report: expected the path of a report.json; call python docs/impact_assessm"
    )
    code, printed = called(monkeypatch, capsys, tmp_path / "nothing.json")
    assert code == 2 and "nothing.json" in printed and not (tmp_path / "impact_assessment.md").exists()
