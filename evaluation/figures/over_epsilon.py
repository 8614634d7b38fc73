"""Trade-off over a stated ε: utility, leakage and the measured lower bound, panels of one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from palisade.evaluation.comparison import Comparison, Point, Series, ceiling
from palisade.evaluation.figures.style import (
    CEILING_LINE,
    CONSTANT_LINE,
    GUESSING_LINE,
    INK_COLOR,
    MUTED_COLOR,
    PAPER_COLOR,
    VIOLATED_COLOR,
    constant_utility,
    ends,
    leakage,
    looks,
    percent,
    scale,
    span,
    utility,
)
from palisade.evaluation.format import epsilon_text
from palisade.evaluation.labels import drawn_level
from palisade.evaluation.result import AUC, FPR, Result

TICK_FACTOR = 1.8  # ε closer than this factor share a tick
LINE_GAP_POINTS, MAX_OFFSET_POINTS = 8.0, 24.0  # between lines of the same ε, and of all of them together
CEILING_MARGIN_FACTOR = 1.3  # ceilings go on by this factor of ε
NEAR_CLAIM_FACTOR = 4.0  # the panel of bounds shows the smallest claim up to so many times the bounds
DRAWN_BOUND = "one_run"
"""The bound on ε that assumes nothing about the mechanism."""


def has_claims(lines: Sequence[Series]) -> bool:
    """Presence of anything to draw over ε."""
    return any(point.result.statement.guarantee for line in lines for point in line.points)


def has_bounds(lines: Sequence[Series]) -> bool:
    """Presence of measured lower bounds on a stated ε."""
    return any(result.epsilon is not None and result.audit for line in lines for result in line.runs)


class OverEpsilon:
    """Panels that share an axis of ε, as stated, broken before ∞."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.lines = comparison, (lines := comparison.series)
        self.results, self.violated = comparison.results, comparison.refuted
        self.looks = looks(lines)
        self.private = [line for line in lines if any(result.epsilon is not None for result in line.runs)]
        epsilons = {result.epsilon for line in lines for result in line.runs if result.epsilon is not None}
        self.stated = sorted(epsilons)
        self.infinity = self.stated[-1 if math.isfinite(self.stated[-1]) else -2] * 5
        self.claims = [epsilon for epsilon in self.stated if math.isfinite(epsilon)]

    def accuracy(self, axes: Axes) -> None:
        """Utility, with that of the undefended run."""
        for line in self.private:
            points = self._points(line)
            x = [self._x(point.result) for point in points]
            look, beside = self.looks[line.name], self._beside(line, axes)
            axes.plot(x, [utility(point) for point in points], zorder=4, transform=beside, **look.marks)
            for at, point in zip(x, points, strict=True):
                bar = ends(point.utility)
                axes.errorbar(at, utility(point), bar, color=look.color, lw=1.1, transform=beside)
            axes.update_datalim([(at, end) for at, point in zip(x, points, strict=True) for end in span(point.utility)])
        for point in self._undefended():
            axes.axhline(utility(point), color=INK_COLOR, lw=1, zorder=1.5)
        if (constant := constant_utility([point for line in self.lines for point in line.points])) is not None:
            axes.axhline(constant, zorder=1.5, **CONSTANT_LINE)
        axes.autoscale_view()  # what stands beside its ε does not count by itself
        self._axis(axes)
        shown = self.lines[0].runs[0].utility
        if shown.is_rate:
            axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set(ylabel=shown.axis.replace(" (", "\n("), title="What ε buys")

    def leakage(self, axes: Axes) -> list[Artist]:
        """Leakage, TPR under the ceiling that ε proves; returns the keys of a legend, for where there is room."""
        lowest = scale(axes, self.lines, room=math.inf)  # the ceiling is often at 100 %
        for line in self.private:
            points = self._points(line)
            x = [self._x(point.result) for point in points]
            look, beside = self.looks[line.name], self._beside(line, axes)
            axes.plot(x, [leakage(point, lowest) for point in points], zorder=4, transform=beside, **look.marks)
            for at, point in zip(x, points, strict=True):
                bar = ends(point.leakage, lowest)
                axes.errorbar(at, leakage(point, lowest), bar, color=look.color, lw=1.1, transform=beside)
        proven = self._proven()
        several = len(proven) > 1
        for color, limits in proven.items():
            stated = sorted(limits)
            own: dict[str, Any] = {"color": INK_COLOR, "label": "ceiling that ε proves"}
            own = {"color": color} if several else own
            axes.plot(*_wider(stated, [limits[x] for x in stated]), **own, **CEILING_LINE)
        if several:
            axes.plot([], [], color=MUTED_COLOR, label="ceiling that ε proves (color of the defense)", **CEILING_LINE)
        for point in self._undefended():
            axes.axhline(leakage(point, lowest), color=INK_COLOR, lw=1, zorder=1.5, label="undefended")
        axes.axhline(drawn_level(self.results, self.comparison.leakage_metric), label="guessing", **GUESSING_LINE)
        self._axis(axes)
        axes.set(ylabel="AUC" if self.comparison.leakage_metric == AUC else "TPR at 1 % FPR")
        return _keys(axes)

    def bounds(self, axes: Axes) -> None:
        """The lower bound on ε that guesses prove, below what is claimed, and how high a perfect attack would reach."""
        reach = 0.0
        for line in self.private:
            runs = [result for result in line.runs if result.epsilon is not None and result.audit]
            x = [self._x(result) for result in runs]
            look, beside = self.looks[line.name], self._beside(line, axes)
            audits = [self.comparison.audit(result) for result in runs]
            measured = [audit["bounds"][DRAWN_BOUND] for audit in audits]
            perfect = [audit["ceilings"][DRAWN_BOUND] for audit in audits]
            axes.plot(x, measured, zorder=4, transform=beside, **look.marks)
            for beyond in (False, True):  # the axis is broken before ε = ∞, and so is the ceiling
                part = [(at, top) for at, top in zip(x, perfect, strict=True) if (at == self.infinity) == beyond]
                ceilings = _wider([at for at, _ in part], [top for _, top in part])
                axes.plot(*ceilings, color=look.color, zorder=2, **CEILING_LINE)
            for at, bound, result in zip(x, measured, runs, strict=True):
                if result.run in self.violated:
                    mark: dict[str, Any] = {"ms": 14, "mfc": "none", "mec": VIOLATED_COLOR, "mew": 1.6}
                    axes.plot(at, bound, "o", label="claim violated", transform=beside, **mark)
            reach = max([reach, *(value for value in (*measured, *perfect) if math.isfinite(value))])
        self._axis(axes)
        right = self.claims[-1] if self.claims != self.stated else axes.get_xlim()[1]
        claimed = np.geomspace(axes.get_xlim()[0], right, 200)
        near = self.claims[0] <= NEAR_CLAIM_FACTOR * reach
        top = (max(1.6 * reach, 1.1 * self.claims[0]) if near else 1.6 * reach) or 1.0  # nothing can be proven
        above = "" if near else " (above this panel)"
        axes.plot([], [], color=MUTED_COLOR, label="ceiling of a perfect attack", **CEILING_LINE)
        axes.plot(claimed, claimed, color=INK_COLOR, lw=1.2, label=f"claimed ε{above}")
        axes.set_ylim(-0.04 * top, top)
        axes.set(ylabel="ε, lower bound")
        axes.legend(handles=_keys(axes)[::-1], loc="upper right")

    def _points(self, line: Series) -> list[Point]:
        return [point for point in line.points if point.result.epsilon is not None]

    def _proven(self) -> dict[str, dict[float, float]]:
        """Largest TPR that the ε of each defense allow, by its color: others may state the same ε at another δ."""
        limits: dict[str, dict[float, float]] = {}
        if self.comparison.leakage_metric == AUC:
            return limits
        for line in self.private:
            for point in line.points:
                if (limit := ceiling(point.result, np.array([FPR]))) is not None:
                    limits.setdefault(self.looks[line.name].color, {})[self._x(point.result)] = limit.item()
        return limits

    def _undefended(self) -> list[Point]:
        return [p for line in self.lines if line.undefended and line.canary == "none" for p in line.points]

    def _x(self, result: Result) -> float:
        return min(result.epsilon or 0.0, self.infinity)

    def _beside(self, line: Series, axes: Axes) -> Transform:
        """Places of a line on the axis: lines of the same ε, with canaries and without, hide each other otherwise."""
        others = len(self.private) - 1
        points = min(LINE_GAP_POINTS, MAX_OFFSET_POINTS / max(others, 1)) * (self.private.index(line) - others / 2)
        page = axes.get_figure(root=True)
        assert page is not None
        return axes.transData + ScaledTranslation(points / 72, 0, page.dpi_scale_trans)

    def _axis(self, axes: Axes) -> None:
        """A logarithmic axis whose right end is broken for ε = ∞."""
        ticks: dict[float, str] = {}
        for epsilon in reversed(self.stated):
            if not ticks or min(epsilon, self.infinity) * TICK_FACTOR <= min(ticks):
                ticks[min(epsilon, self.infinity)] = epsilon_text(epsilon)
        axes.set_xscale("log")
        axes.set_xlim(self.stated[0] / 1.6, max(ticks) * 1.6)
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
        axes.xaxis.set_major_formatter(FixedFormatter(list(ticks.values())))
        axes.xaxis.set_minor_locator(NullLocator())
        if math.isinf(self.stated[-1]):
            gap = self.infinity / math.sqrt(self.infinity / self.stated[-2])
            frame = axes.get_xaxis_transform()
            axes.plot([gap], [0], transform=frame, color=PAPER_COLOR, marker="s", ms=5, clip_on=False, zorder=9)
            stroke: dict[str, Any] = {"color": MUTED_COLOR, "marker": (2, 0, -20), "ms": 9, "clip_on": False}
            for shift in (0.94, 1.06):
                axes.plot([gap * shift], [0], transform=frame, zorder=10, **stroke)


def _wider(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line that begins before its first point and ends after its last: through a single one it would not show."""
    return ([x[0] / CEILING_MARGIN_FACTOR, *x, x[-1] * CEILING_MARGIN_FACTOR], [y[0], *y, y[-1]]) if x else ([], [])


def _keys(axes: Axes) -> list[Artist]:
    """Handles for a legend, each label once."""
    return list({str(key.get_label()): key for key in axes.get_legend_handles_labels()[0]}.values())
