"""The report as a page for people: every value escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.style import INK, MUTED, PAPER
from palisade.evaluation.flags import meanings
from palisade.evaluation.format import NOTHING
from palisade.evaluation.labels import canary_text, setting
from palisade.evaluation.report.outsiders import accusation_table
from palisade.evaluation.report.provenance import as_yaml, promises
from palisade.evaluation.report.sections import BOUNDS, NUMBERS, attack_tables
from palisade.evaluation.result import FPR
from palisade.evaluation.table import WORDS, corrections, headings, lines, reaches

TEXTS = (*WORDS, "needs")
"""Headings of columns that hold no numbers."""


def render(comparison: Comparison, content: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page: one file that needs nothing else, and whose only script is its own, which sorts tables.

    Args:
        comparison: of comparable runs.
        content: what report.json holds.
        figures: SVG by name, to be shown inline.
    """
    runs = comparison.results
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=unbroken,
    )  # fmt: skip
    names, table = _table_of_runs(comparison)
    return environment.get_template("report.html.j2").render(
        **content,
        **promises(runs),
        words=TEXTS,
        contents_of=_contents,
        **script(),
        figures=figures,
        fpr=f"{100 * FPR:g} %",
        attacks=attack_tables(comparison),
        numbers=NUMBERS,
        headings=names,
        table=table,
        frontier=comparison.has_frontier,
        one_each=comparison.are_many,
        meanings=meanings(comparison),
        bounds=list(BOUNDS.values()),
        accused=accusation_table(content["never_used"]["rates"]),
        reaches=[*reaches(comparison), *corrections(runs)],
        as_yaml=as_yaml,
    )


def _table_of_runs(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and for each run the kind of its line and its cells; a column in which nothing stands is left out."""
    told = [
        # Sorted by another column, a fleet with canaries no longer stands under the one that it belongs to.
        line._replace(cells=(setting(result) + canary_text(result), *line.cells[1:])) if result.has_canaries else line
        for result, line in zip(comparison.results, lines(comparison), strict=True)
    ]
    columns = dict(
        zip(headings(comparison.results[0].utility), zip(*(line.cells for line in told), strict=True), strict=True)
    )
    shown = [name for name, cells in columns.items() if set(cells) != {NOTHING}]
    rows = zip(*(columns[name] for name in shown), strict=True)
    kinds = [line.kind + " opens" * line.opens for line in told]
    return [name.replace("\n", " ") for name in shown], [
        (kind, list(row)) for kind, row in zip(kinds, rows, strict=True)
    ]


def _contents(body: str) -> list[tuple[str, str]]:
    """The sections of a page, by id and heading."""
    return re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)


def unbroken(value: Any) -> Any:
    """Keeps a number and its percent sign on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def script() -> dict[str, str]:
    """The only script of a page, and the hash by which the page lets no other run."""
    text = (Path(__file__).parent / "report.js").read_text(encoding="utf-8")
    return {"script": text, "script_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def inline(drawing: str, prefix: str) -> str:
    """An SVG file as a part of a page: without its header, with ids of its own and the page's colors."""
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    for color, variable in ((INK, "ink"), (MUTED, "muted"), (PAPER, "paper")):
        drawing = drawing.replace(color, f"var(--{variable})")
    return drawing
