"""Page with one figure and tables, on one existing model or on records in question, with its numbers in files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from palisade.evaluation.figures.style import svg
from palisade.evaluation.flags import MASKED, OTHER_RECORDS, SHARED_RECORDS
from palisade.evaluation.report.page import render, write_files
from palisade.evaluation.report.scope import INTERNAL, NOTES
from palisade.evaluation.table import TextTable
from palisade.targets import versions

ALARMS = (OTHER_RECORDS, MASKED, SHARED_RECORDS)
"""Flags without which nothing on the page may be read."""
LIBRARIES = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table of the page.

    Args:
        heading: of its section.
        caption: how to read it.
        content: its columns and lines.
    """

    heading: str
    caption: str
    content: TextTable


def write_page(
    folder: Path, words: Mapping[str, Any], measured: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
    drawn: Figure, figure: Mapping[str, str], tables: Sequence[PageTable], command: str,
) -> list[Path]:  # fmt: skip
    """Writes a page with one figure, and its numbers.

    Args:
        folder: where to.
        words: title, scope, subject (`what`), verdict, meaning, flags and skipped attacks, for page and report.json.
        measured: what report.json holds besides.
        rows: of results.csv.
        drawn: the figure.
        figure: its heading, label in words and caption.
        tables: of the page.
        command: what was called.
    """
    numbers = versions(LIBRARIES)
    alarms = [(flag["name"].capitalize(), flag["sentence"]) for flag in words["flags"] if flag["name"] in ALARMS]
    drawings = {"figure": svg(drawn)}
    html = render(
        {
            **words, "note": NOTES[INTERNAL], "sections": ("report_model.html.j2",), "figure": figure, "tables": tables,
            "alarming": ALARMS, "alarms": alarms, "by_reason": by_reason(words["skipped"]), "command": command,
            "versions": numbers,
        },
        drawings,
    )  # fmt: skip
    content = {**words, **measured, "command": command, "versions": numbers}
    texts = {"report.html": html, "report.json": json.dumps(content, indent=2) + "\n", "results.csv": _csv(rows)}
    return write_files(folder, texts, drawings, {"figure": drawn})


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """The skipped attacks of each reason."""
    reasons: dict[str, list[str]] = {}
    for attack, reason in skipped.items():
        reasons.setdefault(reason, []).append(attack)
    return reasons


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return buffer.getvalue()
