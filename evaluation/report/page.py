"""The report as a page for people: every value escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from palisade.evaluation.choice import are_many
from palisade.evaluation.curves import FPR, ordered, series
from palisade.evaluation.figures.style import INK, MUTED, PAPER
from palisade.evaluation.flags.flags import meanings
from palisade.evaluation.frontier import has_frontier
from palisade.evaluation.report.attack_table import NUMBERS, attack_tables
from palisade.evaluation.report.outsiders import accusation_table
from palisade.evaluation.report.promises import promises
from palisade.evaluation.report.provenance import as_yaml
from palisade.evaluation.report.sections import BOUNDS
from palisade.evaluation.result import Result
from palisade.evaluation.table import NOTHING, WORDS, corrections, headings, lines, reaches
from palisade.evaluation.titles import canary_text, has_canaries, setting

TEXTS = (*WORDS, "needs")
"""Headings of columns that hold no numbers."""


def render(results: Sequence[Result], content: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page: one file that needs nothing else, and whose only script is its own, which sorts tables.

    Args:
        results: of comparable runs.
        content: what report.json holds.
        figures: SVG by name, to be shown inline.
    """
    runs = ordered(results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_unbroken,
    )  # fmt: skip
    names, table = _table_of_runs(runs)
    return environment.get_template("report.html.j2").render(
        **content,
        **promises(runs),
        words=TEXTS,
        contents_of=_contents,
        **script(),
        figures=figures,
        fpr=f"{100 * FPR:g} %",
        attacks=attack_tables(runs),
        numbers=NUMBERS,
        headings=names,
        table=table,
        frontier=has_frontier(series(runs)),
        one_each=are_many(series(runs)),
        meanings=meanings(runs),
        bounds=list(BOUNDS.values()),
        accused=accusation_table(content["never_used"]["rates"]),
        reaches=[*reaches(runs), *corrections(runs)],
        as_yaml=as_yaml,
    )


def _table_of_runs(runs: Sequence[Result]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and for each run the kind of its line and its cells; a column in which nothing stands is left out."""
    told = [
        # Sorted by another column, a fleet with canaries no longer stands under the one that it belongs to.
        line._replace(cells=(setting(result) + canary_text(result), *line.cells[1:])) if has_canaries(result) else line
        for result, line in zip(runs, lines(runs), strict=True)
    ]
    columns = dict(zip(headings(runs[0].utility), zip(*(line.cells for line in told), strict=True), strict=True))
    shown = [name for name, cells in columns.items() if set(cells) != {NOTHING}]
    rows = zip(*(columns[name] for name in shown), strict=True)
    kinds = [line.kind + " opens" * line.opens for line in told]
    return [name.replace("\n", " ") for name in shown], [
        (kind, list(row)) for kind, row in zip(kinds, rows, strict=True)
    ]


def _contents(body: str) -> list[tuple[str, str]]:
    """The sections of a page, by id and heading."""
    return re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)


def _unbroken(value: Any) -> Any:
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
