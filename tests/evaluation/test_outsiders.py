"""The report's words on records that were never used, read from a study of the very runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.findings import Findings
from evaluation.report.outsiders import OF_A_FILE, STRONGEST_SHOWN, accusation_table, false_accusations, outsiders
from evaluation.report.page import render
from evaluation.report.summary import summary
from evaluation.report.writing import write
from evaluation.studies.never_used import CORRUPTED, NEAR_DUPLICATES, NEEDS_THE_RECORD
from evaluation.studies.studies import FALSELY_ACCUSED, StudyRow, write_study

COMMAND = "python evaluate.py data=digits attack=full report.scope=public gate.tpr=0.1"
FILE = "/home/somebody/patients.npz"
KINDS = (FILE, CORRUPTED, NEAR_DUPLICATES)
OTHER = StudyRow(target="t", varied="shadows from", setting="s", attack="loss", metric="auc", value=0.6)


def accused(run: str, attack: str, values: tuple[float | None, ...], note: str = "") -> list[StudyRow]:
    named: dict[str, Any] = {"target": "t", "varied": "never used", "metric": FALSELY_ACCUSED, "note": note, "run": run}
    return [
        StudyRow(
            setting=kind, attack=attack, value=value, low=None if value is None else value / 2,
            high=None if value is None else 2 * value, **named,
        )
        for kind, value in zip(KINDS, values, strict=True)
    ]  # fmt: skip


@pytest.fixture
def findings(make_findings: Callable[..., Findings]) -> list[Findings]:
    return [replace(make_findings(), run="mlp-none-1"), replace(make_findings("l2", strength=0.1), run="mlp-l2-2")]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [
        *accused("mlp-none-1", "lira", (None, None, None), NEEDS_THE_RECORD),
        *accused("mlp-none-1", "correctness", (0.01, 0.01, 0.01)),
        *accused("mlp-none-1", "loss", (0.25, 0.01, 0.012)),
        *accused("mlp-none-1", "lira_offline", (0.03, 0.04, 0.05)),
        *accused("mlp-none-1", "entropy", (0.01, 0.01, 0.01)),
        *accused("mlp-gone-3", "loss", (0.9, 0.9, 0.9)),
    ]
    return write_study([*rows, OTHER], tmp_path)[0]


def test_the_worst_rate_is_that_of_the_report_s_own_runs(findings: list[Findings], study: Path) -> None:
    rates = false_accusations(study, findings)
    assert rates is not None
    worst = rates.worst
    assert (worst.attack, worst.kind, worst.value, worst.low, worst.high) == ("loss", OF_A_FILE, 0.25, 0.125, 0.5)
    assert (rates.rates, rates.above, rates.runs, rates.of, rates.unable) == (12, 4, 1, 2, ["lira"])


def test_the_strongest_attacks_come_first(findings: list[Findings], study: Path) -> None:
    content = outsiders(false_accusations(study, findings), COMMAND)
    kinds, rows = accusation_table(content["rates"])
    assert kinds == [OF_A_FILE, "corrupted copies of records that were never used", "near-duplicates of members"]
    assert [row[1] for row in rows] == ["lira_offline", "loss", "correctness"] and len(rows) == STRONGEST_SHOWN
    assert rows[0][2:] == ("3.0 % [1.5–6.0]", "4.0 % [2.0–8.0]", "5.0 % [2.5–10.0]")


def test_only_more_than_chance_is_called_less_trustworthy(findings: list[Findings], tmp_path: Path) -> None:
    for value, worse in ((0.04, True), (0.015, False)):
        path = write_study([*accused("mlp-none-1", "loss", (value,) * 3), OTHER], tmp_path / str(value))[0]
        content = outsiders(false_accusations(path, findings), COMMAND)
        assert ("less trust" in " ".join(content["sentences"])) is worse


def test_a_report_names_no_file(findings: list[Findings], study: Path, tmp_path: Path) -> None:
    write(findings, tmp_path, COMMAND, scope="public", study=study)
    content = summary(findings, COMMAND, accusations=false_accusations(study, findings))
    texts = [(tmp_path / name).read_text() for name in ("report.html", "report.json")]
    for text in (*texts, json.dumps(content), render(findings, content, {"tradeoff": "", "roc": ""})):
        assert "patients.npz" not in text and "somebody" not in text
        assert OF_A_FILE in text and "lira_offline" in text


@pytest.mark.parametrize("missing", ["no study", "no rate", "other runs"])
def test_what_was_not_measured_is_said_with_the_command(missing: str, findings: list[Findings], tmp_path: Path) -> None:
    rows = {
        "no study": [],
        "no rate": accused("mlp-none-1", "lira", (None, None, None), NEEDS_THE_RECORD),
        "other runs": accused("mlp-gone-3", "loss", (0.9, 0.9, 0.9)),
    }[missing]
    study = tmp_path / "none.csv" if missing == "no study" else write_study([*rows, OTHER], tmp_path)[0]
    assert false_accusations(study, findings) is None
    content = summary(findings, COMMAND)
    assert content["never_used"]["rates"] is None
    command = content["never_used"]["command"]
    assert command == "python evaluate.py data=digits study=shadow_mismatch study.out=test"
    html = render(findings, content, {"tradeoff": "", "roc": ""})
    assert command in html and html.index('id="flags"') < html.index(command) < html.index('id="reproduce"')
