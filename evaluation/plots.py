"""The trade-off figure: what protection costs, in one style for page and print."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evaluation.curves import FPR, Series, series
from evaluation.findings import Findings
from evaluation.marks import ends, leakage, places, scale, span, utility
from evaluation.over_epsilon import OverEpsilon, has_bounds, has_claims
from evaluation.placement import Label, place
from evaluation.style import GUESSING, MUTED, STYLE, figure, looks, percent

LABEL_SIZE = 8.5
STAR = 13


def tradeoff(findings: Sequence[Findings]) -> Figure:
    """Utility against leakage; where a guarantee is stated both over ε, and beside it what was measured of ε.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = series(findings)
    with mpl.rc_context(STYLE):
        if has_claims(lines):
            bounds = has_bounds(lines)
            made = figure(12.0, 7.4 if bounds else 5.2)
            panels = made.subplot_mosaic("ab;ac;ad" if bounds else "ab;ac", width_ratios=(1.15, 1))
            _over_epsilon(panels, lines)
        else:
            made = figure(6.6, 5.2)
            panels = made.subplot_mosaic("a")
        _curve(panels["a"], lines)
    return made


def _over_epsilon(panels: dict[str, Axes], lines: Sequence[Series]) -> None:
    """Right panels, under one another: only the lowest tells the ε."""
    over = OverEpsilon(lines)
    over.accuracy(panels["b"])
    keys = over.leakage(panels["c"])
    panels["b"].legend(handles=keys, loc="lower right")
    if "d" in panels:
        over.bounds(panels["d"])
    *upper, lowest = [panels[name] for name in "bcd" if name in panels]
    lowest.set_xlabel("ε, as stated")
    for axes in upper:
        axes.tick_params(labelbottom=False)


def _curve(axes: Axes, lines: Sequence[Series]) -> None:
    """Left panel: a line per defense; lower right is better."""
    look = looks(lines)
    drawn, points = [line for line in lines if line.points], [point for line in lines for point in line.points]
    lowest = scale(axes, lines)
    axes.set_ylim(top=min(1.3, 4 * max([FPR, *(span(point.leakage)[1] for point in points)])))  # room for the legend
    labels = []
    for line in drawn:
        star = line.undefended and line.canary == "none"
        axes.plot(
            *places(line, lowest), label=line.name, zorder=5 if line.undefended else 4, ms=STAR if star else 7,
            **look[line.name].marks,
        )  # fmt: skip
        for point in line.points:
            x, y, color = utility(point), leakage(point, lowest), look[line.name].color
            axes.errorbar(x, y, ends(point.leakage, lowest), ends(point.utility), color=color, lw=1.1, zorder=3)
            if point.label:
                labels.append(Label(x=x, y=y, text=point.label, color=color))
    axes.axhline(FPR, label="guessing", **GUESSING)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set(xlabel="test accuracy", ylabel="members found (TPR) at 1 % FPR", title="What protection costs")
    axes.margins(x=0.08)
    axes.text(0.99, 0.015, "better ↘", transform=axes.transAxes, ha="right", va="bottom", color=MUTED, fontsize=9)
    runs = sum(len(line.runs) for line in lines)
    if not points:
        axes.set(xlim=(0, 1), ylim=(lowest, 1))
        axes.text(0.5, 0.5, "no run can be resolved at 1 % FPR", transform=axes.transAxes, ha="center", va="center")
    elif len(points) < runs:
        axes.plot([], [], " ", label=f"{runs - len(points)} of {runs} runs cannot be resolved")
    axes.legend(loc="upper left")
    _write(axes, drawn, labels, lowest)


def _write(axes: Axes, lines: Sequence[Series], labels: Sequence[Label], lowest: float) -> None:
    """Labels where no mark, bar or legend is."""
    page = axes.get_figure(root=True)
    assert page is not None
    page.draw_without_rendering()
    page.set_layout_engine("none")
    to_pixels, size = axes.transData.transform, 4.5 * page.dpi / 72
    legend = axes.get_legend()
    solid: list[Any] = [] if legend is None else [legend.get_window_extent().extents]
    soft: list[Any] = []
    for line in lines:
        marks = to_pixels(np.column_stack(places(line, lowest)))
        solid += [np.hstack([mark - size, mark + size]) for mark in marks]
        for point in line.points:
            (left, right), (low, high) = span(point.utility), span(point.leakage, lowest)
            x, y = utility(point), leakage(point, lowest)
            solid += [to_pixels([(x, low), (x, high)]).ravel(), to_pixels([(left, y), (right, y)]).ravel()]
        for start, end in pairwise(marks):
            soft += [np.hstack([at - 1, at + 1]) for at in np.linspace(start, end, 40)]
    boxes: Float[np.ndarray, "boxes 4"] = np.array(solid).reshape(-1, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    place(axes, labels, boxes, np.array(soft).reshape(-1, 4), LABEL_SIZE)
