"""The figures of an evaluation: trade-off curve and ROC, in one style for page and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from evaluation.curves import FPR, Point, Series, ceiling, epsilon_text, series, title
from evaluation.findings import Findings, Row
from evaluation.placement import Label, place
from evaluation.style import INK, MUTED, PAPER, STYLE, figure, looks, percent, rates

LOWEST_FPR = 1e-4
LABEL_SIZE = 8.5
STAR = 13
APART = 1.3  # ε closer than this factor share a tick
GUESSING: dict[str, Any] = {"color": MUTED, "lw": 1.1, "ls": (0, (1, 2))}
CEILING: dict[str, Any] = {"lw": 1.2, "ls": (0, (5, 2))}


def tradeoff(findings: Sequence[Findings]) -> Figure:
    """What protection costs: utility against leakage, and both over ε where a guarantee is stated.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = series(findings)
    private = [point for line in lines for point in line.points if point.findings.epsilon is not None]
    over_epsilon = any(point.findings.statement.guarantee for point in private)
    with mpl.rc_context(STYLE):
        made = figure(12.0 if over_epsilon else 6.6, 5.2)
        if over_epsilon:
            panels = made.subplot_mosaic("ab;ac", width_ratios=(1.15, 1))
            _over_epsilon(panels["b"], panels["c"], lines)
        else:
            panels = made.subplot_mosaic("a")
        _curve(panels["a"], lines)
    return made


def roc(findings: Sequence[Findings]) -> Figure:
    """The ROC of each run's strongest attack at few false accusations, under the ceiling that its claim proves.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = series(findings)
    starts = [found.roc[found.strongest][0][0] for found in findings if found.attacks]
    lowest = max(LOWEST_FPR, min((start for start in starts if start > 0), default=LOWEST_FPR))
    grid = np.geomspace(lowest, 1, 200)
    drawn: list[tuple[float, Line2D]] = []
    with mpl.rc_context(STYLE):
        made = figure(8.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        for line in lines:
            runs = [found for found in line.runs if found.attacks]
            for found, alpha in zip(runs, np.linspace(1, 0.45, len(runs)), strict=True):
                look = {"color": looks(lines)[line.name][0], "alpha": alpha}
                fpr, tpr = (np.asarray(values, dtype=np.float64) for values in found.roc[found.strongest])
                label = f"{title(found)} · {found.strongest}"
                (curve,) = axes.plot(fpr, np.where(tpr > 0, tpr, np.nan), label=label, zorder=3, **look)
                drawn.append((float(np.interp(FPR, fpr, tpr)), curve))
                if (limit := ceiling(found, grid)) is not None and limit[0] < 1:
                    axes.plot(grid, limit, label=f"_ceiling of {title(found)}", **CEILING, **look)
        axes.plot(grid, grid, label="_guessing", **GUESSING)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title="Each run's strongest attack")
        keys = [curve for _, curve in sorted(drawn, key=lambda pair: -pair[0])]
        if any(str(curve.get_label()).startswith("_ceiling") for curve in axes.lines):
            keys += [Line2D([], [], color=INK, label="ceiling that ε proves", **CEILING)]
        keys += [Line2D([], [], label="guessing", **GUESSING)]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return made


def _curve(axes: Axes, lines: Sequence[Series]) -> None:
    """Left panel: a line per defense; lower right is better."""
    colors = looks(lines)
    leakages = [point.leakage for line in lines for point in line.points]
    lowest = _scale(axes, leakages)
    axes.set_ylim(top=min(1.0, 4 * max([FPR, *(_range(row)[1] for row in leakages)])))  # room for the legend
    labels = []
    for line in lines:
        color, marker = colors[line.name]
        axes.plot(
            *_places(line, lowest), color=color, marker=marker, label=line.name, zorder=5 if line.undefended else 4,
            ms=STAR if line.undefended else 6, mec=PAPER, mew=0.8,
        )  # fmt: skip
        for point in line.points:
            _bars(axes, point, lowest, color)
            if point.label:
                labels.append(Label(x=_utility(point), y=_leakage(point, lowest), text=point.label, color=color))
    axes.axhline(FPR, label="guessing", **GUESSING)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set(xlabel="test accuracy", ylabel="members found (TPR) at 1 % FPR", title="What protection costs")
    axes.margins(x=0.08)
    axes.text(0.99, 0.015, "better ↘", transform=axes.transAxes, ha="right", va="bottom", color=MUTED, fontsize=9)
    axes.legend(loc="upper left")
    if not leakages:
        axes.text(0.5, 0.5, "no run can be resolved at 1 % FPR", transform=axes.transAxes, ha="center")
    _write(axes, lines, labels, lowest)


def _over_epsilon(accuracy: Axes, leakage: Axes, lines: Sequence[Series]) -> None:
    """Right panels: accuracy and leakage over ε, the ceiling of what the guarantee lets an attack find."""
    colors = looks(lines)
    private = [line for line in lines if any(point.findings.epsilon is not None for point in line.points)]
    stated = sorted({p.findings.epsilon for line in private for p in line.points if p.findings.epsilon is not None})
    infinity = stated[-1 if math.isfinite(stated[-1]) else -2] * 5
    lowest = _scale(leakage, [point.leakage for line in lines for point in line.points])
    for line in private:
        color, marker = colors[line.name]
        points = [point for point in line.points if point.findings.epsilon is not None]
        x = [min(point.findings.epsilon or 0.0, infinity) for point in points]
        style: dict[str, Any] = {"color": color, "marker": marker, "mec": PAPER, "mew": 0.8, "zorder": 4}
        accuracy.plot(x, [_utility(point) for point in points], **style)
        leakage.plot(x, [_leakage(point, lowest) for point in points], label=line.name, **style)
        for at, point in zip(x, points, strict=True):
            accuracy.errorbar(at, _utility(point), _ends(point.utility), color=color, lw=1.1)
            leakage.errorbar(at, _leakage(point, lowest), _ends(point.leakage, lowest), color=color, lw=1.1)
        limits = [(e, ceiling(p.findings, np.array([FPR]))) for e, p in zip(x, points, strict=True)]
        proven = [(e, limit.item()) for e, limit in limits if limit is not None]
        if proven:
            leakage.plot(*zip(*proven, strict=True), color=INK, label="ceiling that ε proves", **CEILING)
    for point in (point for line in lines if line.undefended for point in line.points):
        accuracy.axhline(_utility(point), color=INK, lw=1, zorder=1.5)
        leakage.axhline(_leakage(point, lowest), color=INK, lw=1, zorder=1.5, label="undefended")
    leakage.axhline(FPR, label="guessing", **GUESSING)
    for axes in (accuracy, leakage):
        _epsilon_axis(axes, stated, infinity)
    accuracy.tick_params(labelbottom=False)
    accuracy.yaxis.set_major_formatter(FuncFormatter(percent))
    accuracy.set(ylabel="test accuracy", title="What ε buys")
    leakage.set(xlabel="ε, as stated", ylabel="TPR at 1 % FPR")
    leakage.set_ylim(top=1.3)  # the ceiling is often at 100 %
    keys = {str(key.get_label()): key for key in leakage.get_legend_handles_labels()[0]}  # each once, for both panels
    accuracy.legend(handles=list(keys.values()), loc="lower right", ncols=2)


def _epsilon_axis(axes: Axes, stated: Sequence[float], infinity: float) -> None:
    """A logarithmic axis whose right end is broken for ε = ∞."""
    ticks: dict[float, str] = {}
    for epsilon in reversed(stated):
        if not ticks or min(epsilon, infinity) * APART <= min(ticks):
            ticks[min(epsilon, infinity)] = epsilon_text(epsilon)
    axes.set_xscale("log")
    axes.set_xlim(stated[0] / 1.6, max(ticks) * 1.6)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FixedFormatter(list(ticks.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    if math.isinf(stated[-1]):
        gap = infinity / math.sqrt(infinity / stated[-2])
        frame = axes.get_xaxis_transform()
        axes.plot([gap], [0], transform=frame, color=PAPER, marker="s", ms=5, clip_on=False, zorder=9)
        stroke: dict[str, Any] = {"color": MUTED, "marker": (2, 0, -20), "ms": 9, "clip_on": False, "zorder": 10}
        for shift in (0.94, 1.06):
            axes.plot([gap * shift], [0], transform=frame, **stroke)


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
        places = to_pixels(np.column_stack(_places(line, lowest)))
        solid += [np.hstack([place - size, place + size]) for place in places]
        for point in line.points:
            (left, right), (low, high) = _range(point.utility), _range(point.leakage, lowest)
            x, y = _utility(point), _leakage(point, lowest)
            solid += [to_pixels([(x, low), (x, high)]).ravel(), to_pixels([(left, y), (right, y)]).ravel()]
        for start, end in pairwise(places):
            soft += [np.hstack([at - 1, at + 1]) for at in np.linspace(start, end, 40)]
    boxes: Float[np.ndarray, "boxes 4"] = np.array(solid).reshape(-1, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    place(axes, labels, boxes, np.array(soft).reshape(-1, 4), LABEL_SIZE)


def _scale(axes: Axes, leakages: Sequence[Row]) -> float:
    """A logarithmic axis of TPR; returns its lower end, where a TPR of 0 is drawn."""
    positive = [value for row in leakages for value in (row.value, row.low) if value]
    lowest = min([FPR, *positive]) / 1.6
    axes.set_yscale("log")
    axes.set_ylim(lowest, 1.0)
    rates(axes.yaxis, (1.0, 2.0, 5.0))
    return lowest


def _utility(point: Point) -> float:
    return point.utility.value or 0.0


def _leakage(point: Point, lowest: float) -> float:
    return max(point.leakage.value or 0.0, lowest)


def _places(line: Series, lowest: float) -> tuple[list[float], list[float]]:
    return [_utility(point) for point in line.points], [_leakage(point, lowest) for point in line.points]


def _range(row: Row, lowest: float = 0.0) -> tuple[float, float]:
    """The ends of the interval, or the value itself where there is none."""
    value = row.value or 0.0
    return max(value if row.low is None else row.low, lowest), max(value if row.high is None else row.high, lowest)


def _ends(row: Row, lowest: float = 0.0) -> Float[np.ndarray, "2 1"]:
    """The same as distances from the value, as matplotlib wants them."""
    low, high = _range(row, lowest)
    value = max(row.value or 0.0, lowest)
    return np.array([[max(value - low, 0.0)], [max(high - value, 0.0)]])


def _bars(axes: Axes, point: Point, lowest: float, color: str) -> None:
    axes.errorbar(
        _utility(point), _leakage(point, lowest), _ends(point.leakage, lowest), _ends(point.utility),
        color=color, lw=1.1, zorder=3,
    )  # fmt: skip
