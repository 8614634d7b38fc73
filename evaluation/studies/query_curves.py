"""Curves of a study of queries: its rows by point, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from rich.table import Table
from rich.text import Text

from palisade.evaluation.figures.style import (
    CEILING_LINE,
    FIGURE_STYLE,
    GUESSING_LINE,
    INK_COLOR,
    LINE_COLORS,
    LINE_MARKERS,
    PAPER_COLOR,
    figure,
    rates,
)
from palisade.evaluation.format import NO_NUMBER, empty_table, percent
from palisade.evaluation.result import FPR
from palisade.evaluation.studies.queries import MEMBER_COUNT, STRONGEST_TPR, WHOLE_POOL
from palisade.evaluation.studies.studies import StudyRow

DODGE_FACTOR = 1.035
"""Factor on the logarithmic axis between lines, which often lie on each other."""
AXES_OF_METRICS = {
    STRONGEST_TPR: ("queries a record →", "TPR at 1 % FPR of the strongest attack that asks so often"),
    MEMBER_COUNT: ("different records a key →", "members found, of all whom so many records test, at 1 % FPR"),
}
"""Metrics of points: what rises, and what a table of them shows."""


def points(rows: Sequence[StudyRow], metric: str) -> dict[str, dict[int, StudyRow]]:
    """Rows of a metric by line and point.

    Args:
        rows: of a study.
        metric: `STRONGEST_TPR` or `MEMBER_COUNT`.
    """
    lines: dict[str, dict[int, StudyRow]] = {}
    for row in rows:
        if row.metric == metric:
            lines.setdefault(row.target, {})[int(row.setting)] = row
    return lines


def settings(lines: dict[str, dict[int, StudyRow]]) -> list[int]:
    """Points of the axis, rising."""
    return sorted({point for line in lines.values() for point in line})


def cell(row: StudyRow | None) -> str:
    """Value of a point: a share, or a count of members, beyond which the pool ends where `all` stands behind it."""
    if row is None or row.value is None:
        return NO_NUMBER
    if row.metric == STRONGEST_TPR:
        return percent(row)
    count = f"{row.value:,.0f}" if row.value >= 9.95 else f"{row.value:.1f}"
    return f"{count} all" if row.note.startswith(WHOLE_POOL) else count


def query_tables(rows: Sequence[StudyRow]) -> list[Table | Text]:
    """A table of each axis, a line a guard with the strongest attack at each point, and reasons of skips."""
    tables: list[Table | Text] = []
    for metric, (axis, caption) in AXES_OF_METRICS.items():
        lines = points(rows, metric)
        table = empty_table()
        ends = [row.note for line in lines.values() for row in line.values() if row.note]
        table.caption = "; ".join([caption, *(f"{note} (all)" for note in dict.fromkeys(ends))])
        table.caption_justify = "left"
        table.add_column(f"guard ↓, {axis}", no_wrap=True)
        for point in settings(lines):
            table.add_column(f"{point:,}", justify="right")
        for title, line in lines.items():
            shown = [line.get(point) for point in settings(lines)]
            table.add_row(title, *map(cell, shown), style="bold")
            table.add_row("", *(NO_NUMBER if row is None else row.attack or NO_NUMBER for row in shown), style="dim")
        tables.append(table)
    skipped: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        if row.note and row.metric not in AXES_OF_METRICS:
            attacks, titles = skipped.setdefault(row.note, ({}, {}))
            attacks[row.attack], titles[row.target] = None, None
    count = len({row.target for row in rows})
    for reason, (attacks, titles) in skipped.items():
        where = "" if len(titles) == count else f" ({'; '.join(titles)})"
        tables.append(Text.assemble((f"skipped {', '.join(attacks)}: ", "dim"), reason + where))
    return tables


def query_figure(rows: Sequence[StudyRow], promised: Collection[str] = ()) -> Figure:
    """Members found by different records a key, and the rate by queries a record; a line a guard. Bars: 95 % intervals.

    Args:
        rows: of a study.
        promised: names of runs whose training states an ε, which are dashed.
    """
    counts, rate = points(rows, MEMBER_COUNT), points(rows, STRONGEST_TPR)
    names = {row.target: row.run for row in rows}
    keys = []
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(10.4, 4.2 + 0.22 * -(-(len(names) + 2) // 3))
        left, right = fig.subplots(1, 2)
        for place, (title, run) in enumerate(names.items()):
            stroke = CEILING_LINE["ls"] if run in promised else "-"
            look: dict[str, Any] = {"color": (INK_COLOR, *LINE_COLORS)[place % (1 + len(LINE_COLORS))], "ls": stroke}
            look |= {"marker": LINE_MARKERS[place % len(LINE_MARKERS)], "ms": 5}
            keys.append(Line2D([], [], label=title, **look))
            for axes, line in ((left, counts.get(title, {})), (right, rate.get(title, {}))):
                _draw(axes, list(line.values()), look, DODGE_FACTOR ** (place - (len(names) - 1) / 2))
        _finish(left, settings(counts), "different records a key may ask about")
        _finish(right, settings(rate), "queries a record")
        left.set_title("Members found by one key, at 1 % FPR")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        right.axhline(FPR, **GUESSING_LINE)
        rates(right.yaxis, (1.0, 2.0, 5.0))
        right.set_title("TPR at 1 % FPR, one record")
        keys.append(Line2D([], [], label="guessing", **GUESSING_LINE))
        if any(row.note.startswith(WHOLE_POOL) for line in counts.values() for row in line.values()):
            hollow: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5, "mfc": PAPER_COLOR, "mec": INK_COLOR}
            keys.append(Line2D([], [], label="hollow: everybody in the pool is tested", **hollow))
        fig.legend(handles=keys, loc="outside lower left", ncols=3, handlelength=3)
    return fig


def _draw(axes: Axes, line: Sequence[StudyRow], look: Mapping[str, Any], moved: float) -> None:
    """A line with its bars, moved aside a little by a factor; hollow marks where the whole pool is tested."""
    known = [row for row in line if row.value]
    x = moved * np.array([int(row.setting) for row in known], dtype=float)
    ends = [[row.value if end is None else end for end in (row.low, row.value, row.high)] for row in known]
    low, value, high = np.array(ends, dtype=float).reshape(-1, 3).T
    axes.errorbar(x, value, np.maximum([value - low, high - value], 0), elinewidth=0.8, **look)
    whole = np.array([row.note.startswith(WHOLE_POOL) for row in known], dtype=bool)
    axes.plot(x[whole], value[whole], **{**look, "ls": "", "mfc": PAPER_COLOR, "zorder": 3})


def _finish(axes: Axes, ticks: Sequence[int], heading: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=heading)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
