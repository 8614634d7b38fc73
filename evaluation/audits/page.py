"""The one page of an audit, with the same in report.json and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from palisade.evaluation.figures.style import save, svg
from palisade.evaluation.flags import Flag
from palisade.evaluation.report.page import inline, script
from palisade.targets import versions
from palisade.targets.files import write as write_text
from palisade.targets.files import write_json

ALARMS = ("different records", "masked, not protected", "shared records")
"""Flags without which nothing on the page may be read."""
PAGES = [Path(__file__).parent, Path(__file__).parents[1] / "report"]
"""Folder of the page and of the style sheet that it shares with the report."""
LIBRARIES = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page.

    Args:
        heading: of its section.
        caption: how to read it.
        columns: headings; the first names the row.
        numeric: those of numbers.
        lines: the cells, as text.
    """

    heading: str
    caption: str
    columns: Sequence[str]
    numeric: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page of an audit for people.

    Args:
        title: of the page.
        what: was audited, in a sentence.
        verdict: what was found.
        meaning: what that proves, and what not.
        figure: the one figure.
        figure_heading: of its section.
        figure_label: the figure in words.
        caption: how to read it.
        tables: the numbers.
        flags: why not to believe them.
        skipped: for each attack that could not run, the reason.
        rows: the numbers for programs, one mapping a row.
        command: what was called.
    """

    title: str
    what: str
    verdict: Sequence[str]
    meaning: Sequence[str]
    figure: Figure
    figure_heading: str
    figure_label: str
    caption: str
    tables: Sequence[Table]
    flags: Sequence[Flag]
    skipped: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    command: str

    def write(self, folder: Path, content: Mapping[str, Any]) -> list[Path]:
        """Writes report.html, report.json, results.csv and the figure, each whole or not at all.

        Args:
            folder: where to.
            content: what report.json holds beside what the page tells.
        """
        told = {
            "title": self.title, "scope": "internal", "what": self.what, "verdict": list(self.verdict),
            "meaning": list(self.meaning), "flags": [asdict(flag) for flag in self.flags],
            "skipped": dict(self.skipped), **content, "command": self.command, "versions": versions(LIBRARIES),
        }  # fmt: skip
        drawing = svg(self.figure)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(PAGES), autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, finalize=_unbroken,
        )  # fmt: skip
        html = environment.get_template("audit.html.j2").render(
            **{**vars(self), "figure": inline(drawing, "figure"), "skipped": by_reason(self.skipped)},
            **script(),
            alarms=ALARMS,
            versions=versions(LIBRARIES),
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.html", html)
        write_json(folder / "report.json", told)
        write_text(folder / "results.csv", _csv(self.rows))
        write_text(folder / "figure.svg", drawing)
        save(self.figure, folder / "figure.png")
        return [folder / name for name in ("report.html", "report.json", "results.csv", "figure.png")]


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """The skipped attacks of each reason."""
    told: dict[str, list[str]] = {}
    for attack, reason in skipped.items():
        told.setdefault(reason, []).append(attack)
    return told


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    rows, buffer = list(rows), io.StringIO()
    table = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return buffer.getvalue()


def _unbroken(value: Any) -> Any:
    """Keeps a number and its percent sign on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value
