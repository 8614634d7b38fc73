"""Page of an audit of one model, in the terminal and as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import jinja2
import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.text import Text

from palisade.evaluation.figures.style import COLORS, GUESSING, MUTED, STYLE, figure, rates, save, svg
from palisade.evaluation.flags import Flag
from palisade.evaluation.measuring.one_model import BLIND, Audited
from palisade.evaluation.report.writing import inline, script, unbroken
from palisade.evaluation.statistics.intervals import roc_band
from palisade.evaluation.statistics.metrics import roc_points
from palisade.evaluation.terminal import console_for, empty_table, show
from palisade.targets import versions
from palisade.targets.files import write as write_text
from palisade.targets.files import write_json

ALARMS = ("different records", "masked, not protected", "shared records")
"""Flags without which nothing on the page may be read."""
LIBRARIES = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, kw_only=True)
class PageTable:
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
    tables: Sequence[PageTable]
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
            loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, finalize=unbroken,
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


def show_page(page: Page, file: TextIO | None = None, lines: int = 20) -> None:
    """Prints the first table, the verdict, what the flags mean and what was skipped.

    Args:
        page: what to tell.
        file: where to; None: standard output.
        lines: of the table at most.
    """
    console, told = console_for(file), page.tables[0]
    table = empty_table()
    for name in told.columns:
        numeric = name in told.numeric
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for line in told.lines[:lines]:
        table.add_row(*line)
    show(console, table, *page.verdict)
    for flag in page.flags:
        console.print(Text.assemble((f"{flag.name}: ", "yellow"), flag.sentence))
    for reason, names in by_reason(page.skipped).items():
        console.print(Text.assemble((f"skipped {', '.join(names)}: ", "dim"), reason))


def audit_roc(found: Audited) -> Figure:
    """Members found over non-members accused, with the band that holds all of the true curve at 95 % confidence."""
    lowest = 1 / int((~found.members).sum())
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        blind = {"color": MUTED, "ls": (0, (4, 2)), "label": "blind baseline: never asks the model"}
        drawn: list[tuple[str, dict[str, Any]]] = [(BLIND, blind)]
        if found.attacks:
            drawn.insert(0, (found.strongest, {"color": COLORS[0], "label": found.strongest}))
        for name, look in drawn:
            scored = ~np.isnan(found.scores[name])
            roc = roc_points(found.scores[name][scored], found.members[scored])
            tpr = np.where(roc.tpr > 0, roc.tpr, np.nan)
            axes.plot(np.maximum(roc.fpr, lowest), tpr, drawstyle="steps-post", zorder=3, **look)
            if name != BLIND and not found.over_persons:  # it takes records as independent
                band = roc_band(roc)
                low = np.maximum(band.low, lowest / 10)
                axes.fill_between(
                    band.fpr, low, band.high, step="post", color=COLORS[0], alpha=0.15, lw=0, label="95 %"
                )
        grid = np.geomspace(lowest, 1, 50)
        axes.plot(grid, grid, label="guessing", **GUESSING)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title="Strongest attack on this model")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return made


def p_value_curve(p: Float[np.ndarray, "records"]) -> Figure:
    """The share of the records with a p-value up to each level; on the diagonal if none was used."""
    lowest = float(min(p.min(), 0.01)) / 1.5
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02))
        rising = np.sort(p)
        share = np.arange(1, len(p) + 1) / len(p)
        levels, shares = [lowest, *rising, 1.0], [0.0, *share, 1.0]
        axes.plot(levels, shares, drawstyle="steps-post", color=COLORS[0], label="these records", zorder=3)
        grid = np.geomspace(lowest, 1, 100)
        axes.plot(grid, grid, label="expected if none was used", **GUESSING)
        rates(axes.xaxis)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set(xlabel="p-value", ylabel="records with at most this p-value", title="Records against non-members")
        axes.legend(loc="upper left")
    return made
