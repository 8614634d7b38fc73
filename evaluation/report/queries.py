"""Limits of a server in plain words: what a study of queries found on the runs of a report."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from palisade.evaluation.format import percent
from palisade.evaluation.result import Result
from palisade.evaluation.studies.queries import MEMBER_COUNT, STRONGEST_TPR, WHOLE_POOL
from palisade.evaluation.studies.query_curves import cell, points, settings
from palisade.evaluation.studies.studies import StudyRow

SHARE_DIGITS = 3
"""Digits of a rate, and those of a count that are told: exact ratios would say how many members there were."""
POINT_METRICS = (STRONGEST_TPR, MEMBER_COUNT)
NO_LIMIT_HELPS = (
    "No limit of a server stops an attack that asks once about a person: a limit on the rate makes it slower, a budget"
    " of different records a key bounds how many people the holder of that key can test."
)
LIMITS_AND_EPSILON = (
    "Guards and noise in training lower what one answer tells; limits add nothing to ε and take nothing from it."
    " Whoever holds several keys has several budgets."
)


def query_points(study: Path, results: Sequence[Result], keys: Collection[str]) -> list[StudyRow]:
    """Points of both curves that a study measured on the very models of a report, rounded; none if it was not run.

    Args:
        study: the `study.csv` of `study=queries`.
        results: of the report's runs, under the names of their folders.
        keys: of these models under the report's threat model (`queries.key_of`).

    Raises:
        ValueError: if the file does not hold what a study writes.
    """
    if not study.is_file():
        return []
    runs = {result.run for result in results}
    try:
        with study.open(newline="", encoding="utf-8") as file:
            rows = [
                row for row in csv.DictReader(file)
                if row.get("metric") in POINT_METRICS and row.get("run") in runs and row.get("key") in keys
            ]  # fmt: skip
        return [_point(row) for row in rows]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{study} is not as a study wrote it ({error}); remove it, and measure anew") from None


def _point(row: Mapping[str, str]) -> StudyRow:
    texts: dict[str, Any] = {field.name: row[field.name] for field in fields(StudyRow)}
    digits = {name: float(texts[name]) if texts[name] else None for name in ("value", "low", "high")}
    if not all(number is None or (math.isfinite(number) and number >= 0) for number in digits.values()):
        raise ValueError(f"{digits} are no numbers of members")
    int(texts["setting"])
    rounded = {name: None if number is None else _rounded(number, row["metric"]) for name, number in digits.items()}
    return StudyRow(**{**texts, **rounded, "expected": None})


def _rounded(value: float, metric: str) -> float:
    return round(value, SHARE_DIGITS) if metric == STRONGEST_TPR else float(f"{value:.{SHARE_DIGITS}g}")


def limits_on_queries(rows: Sequence[StudyRow]) -> dict[str, Any] | None:
    """The part of a report on limits: sentences, and the points; None if there are none.

    Args:
        rows: of `query_points`.
    """
    known = [row for row in rows if row.value is not None]
    if not known:
        return None
    shown = ("target", "metric", "setting", "attack", "value", "low", "high", "note")
    return {"sentences": _sentences(known), "points": [{name: asdict(row)[name] for name in shown} for row in rows]}


def _sentences(rows: Sequence[StudyRow]) -> list[str]:
    """The points in plain words: one question, many people, many questions, and what limits are not."""
    rate, counts = (
        {title: list(line.values()) for title, line in points(rows, name).items()} for name in POINT_METRICS
    )
    sentences = [NO_LIMIT_HELPS]
    if rate:
        worst = max((line[0] for line in rate.values()), key=lambda row: row.value or 0.0)
        once = "one question" if worst.setting == "1" else f"{worst.setting} questions"
        sentences.append(
            f"With {once} about each person, attacks find up to {percent(worst, interval=True)} of those who were in"
            f" ({worst.target}, by {worst.attack}), while 1 % of those who were not are accused."
        )
    if counts:
        line = max(counts.values(), key=lambda line: line[-1].value or 0.0)
        parts = [f"{cell(row).removesuffix(' all')} with {int(row.setting):,}" for row in line]
        ends = next((row for row in line if row.note.startswith(WHOLE_POOL)), None)
        sentences.append(
            f"Different records that a key may ask about, and members whom its holder finds on average"
            f" ({line[0].target}): {', '.join(parts)}."
            + ("" if ends is None else f" From {int(ends.setting):,} on it {ends.note}.")
        )
    rising = [(line[0], line[-1]) for line in rate.values() if (line[-1].value or 0.0) > (line[0].value or 0.0)]
    if rising:
        first, last = max(rising, key=lambda ends: (ends[1].value or 0.0) - (ends[0].value or 0.0))
        sentences.append(
            f"More questions about one person can win back what a guard hides: {first.target}, from {percent(first)}"
            f" with {first.setting} to {percent(last)} with up to {last.setting}. Most are about altered copies of the"
            " record, each of which counts as a different one."
        )
    return [*sentences, LIMITS_AND_EPSILON]


def limit_tables(content: Mapping[str, Any] | None) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and lines of two tables: the rate by queries a record, and members found by different records a key.

    Args:
        content: of `limits_on_queries`.
    """
    if content is None:
        return []
    rows = [StudyRow(varied="", **point) for point in content["points"]]
    tables = []
    for metric, axis in zip(POINT_METRICS, ("queries a record", "different records a key"), strict=True):
        lines = points(rows, metric)
        headings = [f"guard ↓, {axis} →", *(f"{point:,}" for point in settings(lines))]
        shown = [[title, *(cell(line.get(point)) for point in settings(lines))] for title, line in lines.items()]
        tables.append((headings, shown))
    return tables
