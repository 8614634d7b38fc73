"""Pages of reports: HTML files that need nothing else, with their figures and numbers in files beside them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from palisade.evaluation.figures.style import INK_COLOR, MUTED_COLOR, PAPER_COLOR, save, svg
from palisade.evaluation.flags import MASKED_FLAG, OTHER_RECORDS, SHARED_RECORDS
from palisade.evaluation.format import csv_text
from palisade.evaluation.report.scope import INTERNAL_SCOPE, SCOPE_NOTES
from palisade.evaluation.result import Result
from palisade.evaluation.table import TextTable
from palisade.targets import versions
from palisade.targets.files import write

Entry = dict[str, Any]
"""An entry of a section, as report.json holds it and the page shows it: texts by name."""
TEMPLATE_FOLDER = Path(__file__).parent


def render(content: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    """The page, whose only script is its own, which sorts tables.

    Args:
        content: what the template `report.html.j2` and the sections that it names read.
        drawings: SVG by name, to be shown inline in the page's own colors.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=unbroken,
    )  # fmt: skip
    figures = {name: inline(drawing, name) for name, drawing in drawings.items()}
    return environment.get_template("report.html.j2").render(
        **content, **script(), figures=figures, contents_of=contents
    )


def write_files(
    folder: Path, texts: Mapping[str, str], drawings: Mapping[str, str], figures: Mapping[str, Figure]
) -> list[Path]:
    """Writes a page with what lies beside it, each file whole or not at all.

    Args:
        folder: where to; made if it is missing.
        texts: files by name, the page among them.
        drawings: the SVG of each figure.
        figures: by name.

    Returns:
        The files, each figure as PNG; its SVG stands beside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**texts, **{f"{name}.svg": drawing for name, drawing in drawings.items()}}.items():
        write(folder / name, text)
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    return [folder / name for name in (*texts, *(f"{name}.png" for name in figures))]


def contents(body: str) -> list[tuple[str, str]]:
    """The sections of a page, by id and heading."""
    return re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)


def unbroken(value: Any) -> Any:
    """Keeps a number and its percent sign on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def script() -> dict[str, str]:
    """The only script of a page, and the hash by which the page lets no other run."""
    text = (TEMPLATE_FOLDER / "report.js").read_text(encoding="utf-8")
    return {"script": text, "script_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def inline(drawing: str, prefix: str) -> str:
    """An SVG file as a part of a page: without its header, with ids of its own and the page's colors."""
    drawing = drawing[max(drawing.find("<svg"), 0) :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    for color, variable in ((INK_COLOR, "ink"), (MUTED_COLOR, "muted"), (PAPER_COLOR, "paper")):
        drawing = drawing.replace(color, f"var(--{variable})")
    return drawing


def explained(results: Sequence[Result], *places: Iterable[str]) -> list[dict[str, str]]:
    """For each place of a page the attacks that first stand there, each with its way in a layman's words.

    Args:
        results: whose attacks are named.
        places: the attacks that each place names, in the order of reading.
    """
    ideas = {name: needs.get("idea") for result in results for name, needs in result.needs.items()}
    new: list[dict[str, str]] = []
    for names in places:
        before = {name for place in new for name in place}
        new.append({name: idea for name in names if name not in before and (idea := ideas.get(name))})
    return new


ALARM_FLAGS = (OTHER_RECORDS, MASKED_FLAG, SHARED_RECORDS)
"""Flags without which nothing on the page may be read."""
NUMERIC_LIBRARIES = ("numpy", "scikit-learn", "scipy")


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
    ideas: Sequence[Mapping[str, str]],
) -> list[Path]:  # fmt: skip
    """Writes a page with one figure, and its numbers.

    Args:
        folder: where to.
        words: title, scope, subject (`what`), verdict, answers to whether it may leave (`leave`), meaning, flags and
            skipped attacks, for page and report.json.
        measured: what report.json holds besides.
        rows: of results.csv.
        drawn: the figure.
        figure: its heading, label in words and caption.
        tables: of the page.
        command: what was called.
        ideas: attacks in a layman's words, those that the verdict names and those of the first table.
    """
    numbers = versions(NUMERIC_LIBRARIES)
    alarms = [(flag["name"].capitalize(), flag["sentence"]) for flag in words["flags"] if flag["name"] in ALARM_FLAGS]
    drawings = {"figure": svg(drawn)}
    html = render(
        {
            **words, "note": SCOPE_NOTES[INTERNAL_SCOPE], "sections": ("report_model.html.j2",), "figure": figure,
            "tables": tables, "ideas": ideas,
            "alarming": ALARM_FLAGS, "alarms": alarms, "by_reason": by_reason(words["skipped"]), "command": command,
            "versions": numbers,
        },
        drawings,
    )  # fmt: skip
    content = {**words, **measured, "command": command, "versions": numbers}
    texts = {
        "report.html": html,
        "report.json": json.dumps(content, indent=2) + "\n",
        "results.csv": csv_text(list(rows[0]), rows),
    }
    return write_files(folder, texts, drawings, {"figure": drawn})


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """The skipped attacks of each reason."""
    reasons: dict[str, list[str]] = {}
    for attack, reason in skipped.items():
        reasons.setdefault(reason, []).append(attack)
    return reasons
