"""The panel of utility against leakage: a line per defense, the frontier, and labels where nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from palisade.evaluation.comparison import Comparison, Series
from palisade.evaluation.figures.marks import ends, leakage, places, scale, span, utility
from palisade.evaluation.figures.placement import Label, place
from palisade.evaluation.figures.style import GUESSING, INK, MUTED, looks, percent
from palisade.evaluation.guessing import drawn_level
from palisade.evaluation.result import FPR
from palisade.evaluation.utility import AFFORDABLE

LABEL_SIZE = 8.5
STAR = 13
FRONTIER: dict[str, Any] = {"color": INK, "lw": 9, "alpha": 0.1, "solid_capstyle": "round", "zorder": 1}


def draw(axes: Axes, comparison: Comparison, *, pale: bool = False) -> list[Label]:
    """Draws marks, intervals and the frontier; returns the labels of the marks, to be written when all else stands.

    Args:
        axes: of the panel.
        comparison: what is drawn; lower right is better.
        pale: whether bars stand back and only the ends of a line are labeled, since there are many lines.
    """
    lines = comparison.series
    look = looks(lines)
    points = [point for line in lines for point in line.points]
    lowest = scale(axes, lines)
    bars: dict[str, Any] = {"alpha": 0.4, "capsize": 0} if pale else {}
    room = 1.15 if pale else 4  # for a legend
    axes.set_ylim(top=min(1.3, room * max([FPR, *(span(point.leakage)[1] for point in points)])))
    labels = []
    for line in lines:
        if not line.points:
            continue
        star = line.undefended and line.canary == "none"
        axes.plot(
            *places(line, lowest), label=line.name, zorder=5 if line.undefended else 4, ms=STAR if star else 7,
            **look[line.name].marks,
        )  # fmt: skip
        for point in line.points:
            x, y, color = utility(point), leakage(point, lowest), look[line.name].color
            axes.errorbar(x, y, ends(point.leakage, lowest), ends(point.utility), color=color, lw=1.1, zorder=3, **bars)
            if point.label and (not pale or point in (line.points[0], line.points[-1])):
                labels.append(Label(x=x, y=y, text=point.label, color=color))
    if comparison.has_frontier:
        best = comparison.frontier
        axes.plot([utility(p) for p in best], [leakage(p, lowest) for p in best], label="frontier", **FRONTIER)
    axes.axhline(drawn_level(comparison.results), label="guessing", **GUESSING)
    shown = lines[0].runs[0].utility
    if shown.is_rate:
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.xaxis.set_inverted(not shown.higher_is_better)  # to the right is more useful, whatever the measure
    axes.set(xlabel=shown.axis, ylabel="members found (TPR) at 1 % FPR", title="What protection costs")
    axes.margins(x=0.08)
    axes.text(0.99, 0.015, "better ↘", transform=axes.transAxes, ha="right", va="bottom", color=MUTED, fontsize=9)
    runs = len(comparison.results)
    if not points:
        axes.set(xlim=(0, 1), ylim=(lowest, 1))
        axes.text(0.5, 0.5, "no run can be resolved at 1 % FPR", transform=axes.transAxes, ha="center", va="center")
    elif len(points) < runs:
        axes.plot([], [], " ", label=f"{runs - len(points)} of {runs} runs cannot be resolved")
    return labels


def focus(
    whole: Axes, near: Axes, labels: Mapping[Axes, list[Label]], lines: Sequence[Series]
) -> dict[Axes, list[Label]]:
    """Narrows a second panel to the runs nearly as useful as any; returns the labels of each, no mark having two."""
    points = [point for line in lines for point in line.points]
    if not points:
        return dict(labels)
    read_by = points[0].result.utility
    best = max(point.result.worth for point in points)
    least, sign = best - AFFORDABLE, 1 if read_by.higher_is_better else -1
    useful = [point for point in points if point.result.worth >= least]
    rates = np.array([span(point.leakage, whole.get_ylim()[0]) for point in useful])
    near.set(xlim=(sign * (least - 0.003), sign * (best + 0.009)), ylim=(rates.min() / 1.15, rates.max() * 1.15))
    near.set(title=f"{read_by.nearly[0].upper()}{read_by.nearly[1:]}", ylabel="")
    return {
        whole: [label for label in labels[whole] if sign * label.x < least],
        near: [label for label in labels[near] if sign * label.x >= least],
    }


def write(labels: Mapping[Axes, Sequence[Label]], lines: Sequence[Series]) -> None:
    """Writes labels where no mark, bar or legend is, on panels of a page that is complete otherwise."""
    page = next(iter(labels)).get_figure(root=True)
    assert page is not None
    page.draw_without_rendering()
    page.set_layout_engine("none")
    for axes, texts in labels.items():
        _write(axes, texts, lines, 4.5 * page.dpi / 72)


def _write(axes: Axes, labels: Sequence[Label], lines: Sequence[Series], size: float) -> None:
    to_pixels, lowest = axes.transData.transform, axes.get_ylim()[0]
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
