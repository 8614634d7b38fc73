"""Fills a data protection impact assessment from a report, for one run, and leaves blank what a person must judge.

    python docs/impact_assessment.py reports/digits/report.json [run]

Writes impact_assessment.md beside the report; one that is there already is kept, since somebody may have filled it in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from palisade.commandline import call
from palisade.evaluation.format import decimal
from palisade.evaluation.utility import Utility
from palisade.frequencies import frequencies
from palisade.targets.statement import rounded_up

DOCS_FOLDER = Path(__file__).parent
MOST_EXPOSED = 3
NOT_MEASURED = "could not be measured"
BLANK_ANSWER = "\\_\\_\\_\\_\\_\\_\\_\\_"


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise ValueError(
            "report: expected the path of a report.json; call python docs/impact_assessment.py"
            " reports/<name>/report.json"
        )
    report = Path(sys.argv[1])
    filled = report.with_name("impact_assessment.md")
    if filled.exists():
        raise ValueError(f"{filled} is there already; move it away, since it may have been filled in by hand")
    content = read(report)
    filled.write_text(assessment(content, chosen(content, sys.argv[2:])), encoding="utf-8")
    print(filled)


def read(report: Path) -> dict[str, Any]:
    """The content of a report.json."""
    try:
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        content["runs"], content["reproduce"], content["released"], content["leave"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{report}: expected a report.json of evaluate.py; run that again") from None
    return content


def chosen(content: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The run that is assessed: by its title or folder, or the only one."""
    runs = content["runs"]
    matches = [run for run in runs if not names or names[0] in (run["title"], run["run"])]
    if len(matches) > 1 and names:
        folders = ", ".join(run["run"] for run in matches)
        raise ValueError(f"run={names[0]} is {len(matches)} runs of the report; give one of their folders, {folders}")
    if len(matches) != 1:
        named = f"run={names[0]} is not in the report" if names else f"the report holds {len(runs)} runs"
        raise ValueError(f"{named}; add one of {', '.join(repr(run['title']) for run in runs)}")
    return matches[0]


def assessment(content: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The filled page."""
    rows = {(row["attack"], row["metric"]): row for row in run["rows"] if row["model"] == row["group"] == "all"}
    bare = [other for other in content["runs"] if other["defense"] == other["guard"] == other["canary"] == "none"]
    measure = content["utility"]
    utility = f"test_{measure['name']}"
    parts = [
        row
        for row in run["rows"]
        if row["metric"] == "tpr@1%fpr" and row["group"] != "all" and row["model"] == "all" and row["value"] is not None
    ]
    page = Environment(
        loader=FileSystemLoader(DOCS_FOLDER), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"percent": percent, "number": number, "people": people, "above": rounded_up}
    luck = rows.get((run["strongest"], "null@1%fpr"))
    return page.get_template("impact_assessment.md.j2").render(
        content=content,
        run=run,
        rows=rows,
        luck=_guessing(luck, "1"),
        limits=list(_limits(content["leave"], run["title"])),
        exposed=next((each for each in content["exposed"] if each["title"] == run["title"]), None),
        recited=next((each["sentences"] for each in content.get("recited", ()) if each["title"] == run["title"]), ()),
        facts=content["released"]["facts"],
        trained_on=_trained_on(content["released"]["facts"]),
        measure=measure,
        utility=rows.get(("", utility)),
        undefended=[row for other in bare for row in other["rows"] if _is_fleet(row, utility)][:1],
        show=lambda row: useful(row, Utility.named(measure["name"])),
        strongest={metric: rows.get((run["strongest"], metric)) for metric in ("tpr@1%fpr", "tpr@0.1%fpr", "auc")},
        guessing={fpr: _guessing(rows.get((run["strongest"], f"chance@{fpr}%fpr")), fpr) for fpr in ("1", "0.1")},
        groups=sorted(parts, key=lambda row: -row["value"])[:MOST_EXPOSED],
        blank=BLANK_ANSWER,
    )


def _trained_on(facts: Mapping[str, Any]) -> str:
    """The records that models may be trained on, with their persons: no one who is there for tests alone."""
    persons = facts.get("pool_persons")
    return f"{facts['roles']['pool']:,} records" + ("" if persons is None else f" of {persons:,} persons")


def _guessing(row: Mapping[str, Any] | None, fpr: str) -> str:
    """TPR of guessing on average, in percent; the FPR where that was not measured."""
    return fpr if row is None or row["value"] is None else f"{100 * row['value']:.2g}"


def _limits(leave: Sequence[Mapping[str, Any]], title: str) -> Iterator[tuple[str, str]]:
    """Each limit that was set, with the answer for a run."""
    for entry in leave:
        if entry["is_set"]:
            yield (
                entry["limit"],
                next((line["answer"] for line in entry["lines"] if line["title"] == title), BLANK_ANSWER),
            )


def people(row: Mapping[str, Any], fpr: float, who: str) -> str:
    """A TPR at an FPR in natural frequencies."""
    ends = None if row["low"] is None or row["high"] is None else (row["low"], row["high"])
    return frequencies(row["value"], fpr, ends=ends, who=who)


def percent(row: Mapping[str, Any] | None) -> str:
    """A rate with its interval."""
    return _text(row, 100, 1, " %")


def useful(row: Mapping[str, Any] | None, measure: Utility) -> str:
    """A utility with its interval, as a report shows it."""
    if row is None or row["value"] is None:
        return NOT_MEASURED
    return percent(row) if measure.is_rate else _text(row, 1, measure.decimals(row["value"]), "")


def number(row: Mapping[str, Any] | None) -> str:
    """Any other number with its interval."""
    return _text(row, 1, 3, "")


def _text(row: Mapping[str, Any] | None, factor: int, digits: int, unit: str) -> str:
    if row is None or row["value"] is None:
        return NOT_MEASURED
    value, *ends = (
        None if row[key] is None else decimal(factor * row[key], digits) for key in ("value", "low", "high")
    )
    return f"{value}{unit}" + ("" if None in ends else f" (95 % interval {ends[0]} to {ends[1]})")


def _is_fleet(row: Mapping[str, Any], metric: str) -> bool:
    return (row["metric"], row["attack"], row["model"], row["group"]) == (metric, "", "all", "all")


if __name__ == "__main__":
    call(main)
