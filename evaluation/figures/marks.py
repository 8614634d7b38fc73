"""Marks of runs on a figure: utility, leakage, and the intervals of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from palisade.evaluation.comparison import Point, Series
from palisade.evaluation.figures.style import rates
from palisade.evaluation.result import FPR, Row


def scale(axes: Axes, lines: Sequence[Series]) -> float:
    """A logarithmic axis of TPR; returns its lower end, where a TPR of 0 is drawn."""
    rows = [point.leakage for line in lines for point in line.points]
    lowest = min([FPR, *(value for row in rows for value in (row.value, row.low) if value)]) / 1.6
    axes.set_yscale("log")
    axes.set_ylim(lowest, 1.0)
    rates(axes.yaxis, (1.0, 2.0, 5.0))
    return lowest


def utility(point: Point) -> float:
    """The utility of a run on the axis; 0 where there is none."""
    return point.utility.value or 0.0


def leakage(point: Point, lowest: float) -> float:
    """The leakage of a run on the axis, `lowest` at least."""
    return max(point.leakage.value or 0.0, lowest)


def places(line: Series, lowest: float) -> tuple[list[float], list[float]]:
    """Utilities and leakages of all runs of a line, in its order."""
    return [utility(point) for point in line.points], [leakage(point, lowest) for point in line.points]


def span(row: Row, lowest: float = 0.0) -> tuple[float, float]:
    """The ends of the interval, or the value itself where there is none."""
    value = row.value or 0.0
    return max(value if row.low is None else row.low, lowest), max(value if row.high is None else row.high, lowest)


def ends(row: Row, lowest: float = 0.0) -> Float[np.ndarray, "2 1"]:
    """The ends of the interval as distances from the value, as matplotlib wants them."""
    low, high = span(row, lowest)
    value = max(row.value or 0.0, lowest)
    return np.array([[max(value - low, 0.0)], [max(high - value, 0.0)]])
