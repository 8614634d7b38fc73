"""Trade-off figure: utility against leakage, the Pareto frontier, and labels where nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from palisade.evaluation.comparison import Comparison, Series
from palisade.evaluation.figures.over_epsilon import OverEpsilon, has_bounds, has_claims
from palisade.evaluation.figures.style import (
    CONSTANT_LINE,
    FIGURE_STYLE,
    GUESSING_LINE,
    INK_COLOR,
    LEAKAGE_LABELS,
    LINE_COLORS,
    MUTED_COLOR,
    constant_utility,
    ends,
    figure,
    leakage,
    looks,
    percent,
    places,
    scale,
    span,
    utility,
)
from palisade.evaluation.labels import drawn_level, label
from palisade.evaluation.result import AUC

LABEL_DISTANCES_POINTS = (5.0, 9.0, 14.0, 20.0, 27.0, 35.0, 45.0, 57.0, 70.0)
"""Distances from mark to label that are tried, in points."""
LEADER_FROM_POINTS = 12.0
"""From this distance on a thin line leads from the label to its mark."""
LABEL_DIRECTIONS = 16
LABEL_CLEARANCE_POINTS = 1.5
LABEL_SIZE = 8.5
STAR_SIZE_POINTS = 13
FRONTIER_LINE: dict[str, Any] = {"color": INK_COLOR, "lw": 9, "alpha": 0.1, "solid_capstyle": "round", "zorder": 1}
DOMINATED_OPACITY = 0.3
"""Opacity of a run that another one beats in both."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a mark at (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place(
    axes: Axes,
    labels: Sequence[Label],
    forbidden: Float[np.ndarray, "forbidden 4"],
    avoided: Float[np.ndarray, "avoided 4"],
    size: float,
) -> list[Annotation]:
    """Writes each label at the nearest free place, the most crowded marks first.

    Args:
        axes: drawn once, so that positions on the page are final.
        labels: what to write.
        forbidden: boxes (x0, y0, x1, y1) in pixels that no label may touch: marks and their bars.
        avoided: boxes that a label had better not touch, such as lines.
        size: of the font, in points.
    """
    page = axes.get_figure(root=True)
    assert page is not None
    point = page.dpi / 72
    frame = axes.get_window_extent().extents
    marks = axes.transData.transform([(label.x, label.y) for label in labels]).reshape(-1, 2)
    crowd = [np.sum(np.hypot(*(marks - mark).T) < 40 * point) for mark in marks]
    written: dict[int, Annotation] = {}
    for index in sorted(range(len(labels)), key=lambda i: (-crowd[i], i)):
        label, mark = labels[index], marks[index]
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center", va="center",
            fontsize=size, color=label.color, zorder=6,
            arrowprops={"arrowstyle": "-", "color": label.color, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip
        half = np.asarray(box(text).size) / 2 + LABEL_CLEARANCE_POINTS * point
        shifts, distances = _candidates(half, point)
        boxes = np.hstack([mark + shifts - half, mark + shifts + half])
        outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
        # A label that is nearer to another mark would be read as that one's.
        strange = (_gaps(boxes, marks) < _gaps(boxes, mark[None]) + 2 * point).sum(axis=1) - 1
        cost = distances + 1e6 * outside + 10 * strange
        cost += 1e4 * _overlaps(boxes, forbidden) + 8 * _overlaps(boxes, avoided)
        best = int(np.argmin(cost))
        text.set_position((shifts[best, 0] / point, shifts[best, 1] / point))
        if distances[best] < LEADER_FROM_POINTS and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)
        forbidden = np.vstack([forbidden, boxes[best]])
        written[index] = text
    return [written[index] for index in range(len(labels))]


def box(text: Annotation) -> Bbox:
    """The extent of the words alone, in pixels, without the leader."""
    return Text.get_window_extent(text)


def _candidates(
    half: Float[np.ndarray, "2"], point: float
) -> tuple[Float[np.ndarray, "places 2"], Float[np.ndarray, "places"]]:
    """Shifts of the label's center in pixels, and how far its box then is from the mark in points."""
    angles = np.arange(LABEL_DIRECTIONS) * 2 * np.pi / LABEL_DIRECTIONS
    unit = np.column_stack([np.cos(angles), np.sin(angles)])
    # The side of the box, not its center, keeps the distance.
    shifts = [unit * (half + radius * point) for radius in LABEL_DISTANCES_POINTS]
    return np.vstack(shifts), np.repeat(LABEL_DISTANCES_POINTS, LABEL_DIRECTIONS)


def _gaps(boxes: Float[np.ndarray, "boxes 4"], marks: Float[np.ndarray, "marks 2"]) -> Float[np.ndarray, "boxes marks"]:
    """Distance of each mark from each box, in pixels."""
    apart = np.maximum(boxes[:, None, :2] - marks[None], marks[None] - boxes[:, None, 2:])
    gaps: Float[np.ndarray, "boxes marks"] = np.hypot(*np.moveaxis(np.maximum(apart, 0), 2, 0))
    return gaps


def _overlaps(boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]) -> Float[np.ndarray, "boxes"]:
    """Number of the others that each box touches."""
    low = boxes[:, None, :2] < others[None, :, 2:]
    high = boxes[:, None, 2:] > others[None, :, :2]
    touched: Float[np.ndarray, "boxes"] = (low & high).all(axis=2).sum(axis=1).astype(np.float64)
    return touched


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
    lowest = scale(axes, lines, room=1.15 if pale else 4)
    bars: dict[str, Any] = {"alpha": 0.4, "capsize": 0} if pale else {}
    labels = []
    for line in lines:
        if not line.points:
            continue
        star = line.undefended and line.canary == "none"
        axes.plot(
            *places(line, lowest), label=line.name, zorder=5 if line.undefended else 4,
            ms=STAR_SIZE_POINTS if star else 7, **look[line.name].marks,
        )  # fmt: skip
        for point in line.points:
            x, y, color = utility(point), leakage(point, lowest), look[line.name].color
            axes.errorbar(x, y, ends(point.leakage, lowest), ends(point.utility), color=color, lw=1.1, zorder=3, **bars)
            if point.label and (not pale or point in (line.points[0], line.points[-1])):
                labels.append(Label(x=x, y=y, text=point.label, color=color))
    if comparison.has_frontier:
        best = comparison.frontier
        axes.plot([utility(p) for p in best], [leakage(p, lowest) for p in best], label="frontier", **FRONTIER_LINE)
    metric = comparison.leakage_metric
    axes.axhline(drawn_level(comparison.results, metric), label="guessing", **GUESSING_LINE)
    if (constant := constant_utility(points)) is not None:
        axes.axvline(constant, zorder=1.5, **CONSTANT_LINE)
    shown = lines[0].runs[0].utility
    if shown.is_rate:
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.xaxis.set_inverted(not shown.higher_is_better)  # to the right is more useful, whatever the measure
    axes.set(xlabel=shown.axis, ylabel=LEAKAGE_LABELS[metric], title="What protection costs")
    axes.margins(x=0.08)
    axes.text(0.99, 0.015, "better ↘", transform=axes.transAxes, ha="right", va="bottom", color=MUTED_COLOR, fontsize=9)
    runs = len(comparison.results)
    if not points:
        axes.set_xlim(0, 1)
        axes.text(0.5, 0.5, "no run can be drawn", transform=axes.transAxes, ha="center", va="center")
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
    least, sign = read_by.least_affordable(best), 1 if read_by.higher_is_better else -1
    useful = [point for point in points if point.result.worth >= least]
    rates = np.array([span(point.leakage, whole.get_ylim()[0]) for point in useful])
    room = best - least
    near.set(xlim=(sign * (least - 0.06 * room), sign * (best + 0.18 * room)))
    near.set(ylim=(rates.min() / 1.15, rates.max() * 1.15))
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
    corners = np.array(solid).reshape(-1, 2, 2)
    # On a turned axis the lower end of a bar is the right one; a bar without width has a pixel.
    first, last = corners.min(axis=1), corners.max(axis=1)
    boxes = np.hstack([first, np.maximum(last, first + 1)])
    place(axes, labels, boxes, np.array(soft).reshape(-1, 4), LABEL_SIZE)


def tradeoff(comparison: Comparison) -> Figure:
    """Utility against leakage; where a guarantee is stated both over ε, and beside it what was measured of ε.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = comparison.series
    over = "" if not has_claims(lines) else "bcd" if has_bounds(lines) else "bc"
    with mpl.rc_context(FIGURE_STYLE):
        return _many(comparison, over) if len(lines) > len(LINE_COLORS) else _few(comparison, over)


def _few(comparison: Comparison, over: str) -> Figure:
    """One panel, and beside it under one another what is drawn over ε, of which only the lowest tells the ε."""
    fig = figure(*((12.0, 7.4 if "d" in over else 5.2) if over else (6.6, 5.2)))
    rows: Any = [["a", name] for name in over] or [["a"]]
    panels = fig.subplot_mosaic(rows, width_ratios=(1.15, 1) if over else None)
    if over:
        keys = _over_epsilon([panels[name] for name in over], comparison)
        # Utility rises with ε, or falls where lower is better, and leaves the other corner free.
        corner = "lower right" if comparison.results[0].utility.higher_is_better else "upper right"
        panels["b"].legend(handles=keys, loc=corner)
        for name in over[:-1]:
            panels[name].tick_params(labelbottom=False)
            panels[name].set_xlabel("")
    labels = draw(panels["a"], comparison)
    if comparison.leakage_metric == AUC:  # an axis that ends at 1 leaves the corner free that nobody reaches
        panels["a"].legend(loc="lower right", bbox_to_anchor=(1, 0.07))
    else:
        panels["a"].legend(loc="upper left")
    write({panels["a"]: labels}, comparison.series)
    return fig


def _many(comparison: Comparison, over: str) -> Figure:
    """Beside the panel another one of the runs nearly as accurate as any; what is drawn over ε and a legend below."""
    fig = figure(12.0, 10.6 if over else 6.6)
    rows: Any = [["a"] * 3 + ["near"] * 3] + [[name for name in over for _ in range(6 // len(over))]] * bool(over)
    panels = fig.subplot_mosaic(rows, height_ratios=(1.5, 1) if over else None)
    labels = {panels[name]: draw(panels[name], comparison, pale=True) for name in ("a", "near")}
    labels = focus(panels["a"], panels["near"], labels, comparison.series)
    keys, _ = panels["a"].get_legend_handles_labels()
    if over:
        ceilings = _over_epsilon([panels[name] for name in over], comparison)
        keys += [key for key in ceilings if "ceiling" in str(key.get_label())]
    fig.legend(handles=keys, loc="outside lower center", ncols=5, handlelength=3)
    write(labels, comparison.series)
    return fig


def _over_epsilon(panels: Sequence[Axes], comparison: Comparison) -> list[Artist]:
    """Accuracy, leakage and, if there is a third panel, bounds; returns the keys of a legend."""
    over = OverEpsilon(comparison)
    over.accuracy(panels[0])
    keys = over.leakage(panels[1])
    for axes in panels[2:]:
        over.bounds(axes)
    for axes in panels:
        axes.set_xlabel("ε, as stated")
    return keys


def pareto(comparison: Comparison) -> Figure:
    """Utility against leakage of all runs; those on the frontier in full color, with bars and labels.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines, best = comparison.series, comparison.frontier
    look, labels = looks(lines), []
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(7.6, 5.4)
        axes = fig.subplots()
        lowest = scale(axes, lines, room=1.5)
        for line in lines:
            marks = {**look[line.name].marks, "ls": "none", "ms": STAR_SIZE_POINTS if line.undefended else 7}
            axes.plot([], [], label=line.name, **marks)
            for point in line.points:
                x, y, color = utility(point), leakage(point, lowest), look[line.name].color
                axes.plot(x, y, zorder=4, **{**marks, "alpha": 1.0 if point in best else DOMINATED_OPACITY})
                if point in best:
                    bars = ends(point.leakage, lowest), ends(point.utility)
                    axes.errorbar(x, y, *bars, color=color, lw=1.1, zorder=3)
                    labels.append(Label(x=x, y=y, text=label(point.result, short=True), color=color))
        axes.plot([utility(p) for p in best], [leakage(p, lowest) for p in best], label="frontier", **FRONTIER_LINE)
        metric = comparison.leakage_metric
        axes.axhline(drawn_level(comparison.results, metric), label="guessing", **GUESSING_LINE)
        if (constant := constant_utility([point for line in lines for point in line.points])) is not None:
            axes.axvline(constant, zorder=1.5, **CONSTANT_LINE)
        measure = comparison.results[0].utility
        if measure.is_rate:
            axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.xaxis.set_inverted(not measure.higher_is_better)  # to the right is more useful, whatever the measure
        axes.set(xlabel=measure.axis, ylabel=LEAKAGE_LABELS[metric], title="What the search found")
        fig.legend(loc="outside lower center", ncols=5)
        write({axes: labels}, lines)
    return fig
