"""The report's words on limits, read from a study of queries of the very models; and those of a card."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import csv_text
from palisade.evaluation.report.queries import (
    LIMITS_AND_EPSILON,
    NO_LIMIT_HELPS,
    limit_tables,
    limits_on_queries,
    query_points,
)
from palisade.evaluation.report.run_report import write
from palisade.evaluation.result import Result
from palisade.evaluation.studies.queries import MEMBER_COUNT, QUERIES_AXIS, RECORDS_AXIS, STRONGEST_TPR, WHOLE_POOL
from palisade.evaluation.studies.studies import TPR, StudyRow

pytestmark = pytest.mark.usefixtures("undrawn")

RUN_KEYS = ("1a2b",)
LABEL_LINE, PLAIN_LINE = "undefended, label", "undefended"
ALL_NOTE = f"{WHOLE_POOL} 4,000 records of the pool; no larger one was measured"


def line(title: str, rates: dict[int, float], counts: dict[int, float], *, key: str = RUN_KEYS[0]) -> list[StudyRow]:
    """Points of a line, with intervals from half of each to twice as much."""
    named: dict[str, Any] = {"target": title, "run": "mlp-none-1", "key": key, "attack": "lira"}
    return [
        StudyRow(
            varied=axis, setting=str(point), metric=metric, value=value, low=value / 2, high=2 * value,
            note=ALL_NOTE if metric == MEMBER_COUNT and point > 4000 else "", **named,
        )
        for axis, metric, values in ((QUERIES_AXIS, STRONGEST_TPR, rates), (RECORDS_AXIS, MEMBER_COUNT, counts))
        for point, value in values.items()
    ]  # fmt: skip


@pytest.fixture
def results(make_result: Callable[..., Result]) -> list[Result]:
    return [replace(make_result(), run="mlp-none-1"), replace(make_result("l2", strength=0.1), run="mlp-l2-2")]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [
        *line(PLAIN_LINE, {1: 0.55912, 17: 0.55912}, {10: 2.7956, 1000: 279.56, 10**5: 1118.24}),
        *line(LABEL_LINE, {1: 0.128, 17: 0.373}, {10: 0.64, 1000: 64.0, 10**5: 746.0}),
        *line("of other models", {1: 0.9}, {10: 4.5}, key="other"),
        StudyRow(
            target="undefended", varied=QUERIES_AXIS, setting="1", attack="loss", metric=TPR, value=0.02, key="1a2b"
        ),
    ]
    path = tmp_path / "study.csv"
    path.write_text(csv_text([field.name for field in fields(StudyRow)], map(asdict, rows)))
    return path


def test_points_are_those_of_the_report_s_models_rounded(results: list[Result], study: Path) -> None:
    rows = query_points(study, results, RUN_KEYS)
    assert {row.target for row in rows} == {PLAIN_LINE, LABEL_LINE} and len(rows) == 10
    assert [row.value for row in rows if row.target == PLAIN_LINE] == [0.559, 0.559, 2.8, 280.0, 1120.0]
    assert not query_points(study, results[1:], RUN_KEYS), "of another run"
    assert not query_points(study, results, ["fedc"]), "of other models or another threat"
    assert not query_points(study.with_name("none.csv"), results, RUN_KEYS)


def test_the_words_count_people_and_promise_nothing(results: list[Result], study: Path) -> None:
    content = limits_on_queries(query_points(study, results, RUN_KEYS))
    assert content is not None
    first, once, many, several, last = content["sentences"]
    assert (first, last) == (NO_LIMIT_HELPS, LIMITS_AND_EPSILON)
    assert once.startswith("With one question about each person, attacks find up to 55.9 % [28.0–111.8] of those who")
    assert "(undefended): 2.8 with 10, 280 with 1,000, 1,120 with 100,000." in many and "From 100,000 on" in many
    assert "undefended, label, from 12.8 % with 1 to 37.3 % with up to 17" in several
    rates, counts = limit_tables(content)
    assert rates[0] == ["guard ↓, queries a record →", "1", "17"]
    assert rates[1] == [[PLAIN_LINE, "55.9 %", "55.9 %"], [LABEL_LINE, "12.8 %", "37.3 %"]]
    assert counts[1] == [[PLAIN_LINE, "2.8", "280", "1,120 all"], [LABEL_LINE, "0.6", "64", "746 all"]]


def test_where_more_questions_find_no_more_nothing_is_said(results: list[Result], study: Path) -> None:
    rows = [row for row in query_points(study, results, RUN_KEYS) if row.target == PLAIN_LINE]
    content = limits_on_queries(rows)
    assert content is not None and len(content["sentences"]) == 4
    assert limits_on_queries([replace(row, value=None) for row in rows]) is None
    assert limits_on_queries([]) is None and limit_tables(None) == []


@pytest.mark.parametrize("changed", [{"value": "many"}, {"value": "-1"}, {"setting": ""}, {"low": "nan"}])
def test_a_damaged_file_is_refused(changed: dict[str, str], results: list[Result], study: Path) -> None:
    with study.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= changed
    study.write_text(csv_text(list(rows[0]), rows))
    with pytest.raises(ValueError, match=r"study\.csv is not as a study wrote it"):
        query_points(study, results, RUN_KEYS)


@pytest.mark.parametrize("scope", ["internal", "public"])
def test_the_page_has_a_section_where_the_study_was_run(
    scope: str, results: list[Result], study: Path, tmp_path: Path
) -> None:
    rows = query_points(study, results, RUN_KEYS)
    for name, asked in (("with", rows), ("without", [])):
        write(Comparison(results), tmp_path / name, "python evaluate.py data=d", scope=scope, asked=asked)
        page = (tmp_path / name / "report.html").read_text()
        content = json.loads((tmp_path / name / "report.json").read_text())
        assert ("What limits on questions are worth" in page) == ("queried" in content) == bool(asked)
        assert (tmp_path / name / "queries.png").exists() == bool(asked)
        if asked:
            assert NO_LIMIT_HELPS in page and "1,120 all" in page
            assert "mlp-none-1" not in json.dumps(content["queried"])
