"""The figure of a study over numbers: leakage, and the gap that overfitting opens, over each factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from palisade.evaluation.figures.style import COLORS, GUESSING, INK, MARKERS, STYLE, figure, percent
from palisade.evaluation.result import AUC, FPRS
from palisade.evaluation.studies.studies import GAP, TPR, Study, StudyRow

SHOWN = {TPR: ("TPR at 1 % FPR", FPRS[0]), AUC: ("AUC", 0.5), GAP: ("Accuracy on members − on non-members", 0.0)}
"""Metrics that are drawn: the name, and the value where nothing leaks."""


def factors(results: Study) -> Figure:
    """A column a factor, a row a metric; of attacks the strongest at each value. Bars: 95 % intervals."""
    parts = results.parts
    shown = [metric for metric in SHOWN if any(row.metric == metric for row in results.rows)]
    colors = dict(zip(results.targets, _looks(len(results.targets)), strict=True))
    with mpl.rc_context(STYLE):
        made = figure(1.2 + 2.9 * len(parts), 2.2 * len(shown))
        panels = made.subplots(len(shown), len(parts), sharex="col", sharey="row", squeeze=False)
        for column, part in enumerate(parts):
            for axes, metric in zip(panels[:, column], shown, strict=True):
                _panel(axes, part, metric, colors)
            panels[-1, column].set_xlabel(f"{part.varied} →")
        for axes, metric in zip(panels[:, 0], shown, strict=True):
            axes.set_title(SHOWN[metric][0])
            if metric != AUC:
                axes.yaxis.set_major_formatter(percent)
        if len(results.targets) > 1:
            drawn = [axes.get_legend_handles_labels() for axes in panels[0]]
            handles = {label: line for lines, labels in drawn for line, label in zip(lines, labels, strict=True)}
            made.legend(handles.values(), handles.keys(), loc="outside lower left")
    return made


def _panel(axes: Axes, part: Study, metric: str, looks: Mapping[str, dict[str, Any]]) -> None:
    axes.axhline(SHOWN[metric][1], **GUESSING)
    for target in part.targets:
        rows = [(float(setting), _row(part, target, setting, metric)) for setting in part.settings]
        places = [(x, row) for x, row in rows if row is not None and row.value is not None]
        x, value, low, high = np.array([(x, row.value, *_ends(row)) for x, row in places], dtype=float).reshape(-1, 4).T
        # A mean lies outside its own percentile interval now and then, by a hair.
        bars = np.maximum([value - low, high - value], 0)
        axes.errorbar(x, value, bars, label=target, ms=5, elinewidth=1, **looks[target])
    axes.set_xscale("log")
    ticks = sorted({float(setting) for setting in part.settings})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _row(part: Study, target: str, setting: str, metric: str) -> StudyRow | None:
    if metric == GAP:
        return part.row(target, setting, "", GAP)
    strongest = part.strongest(target, setting)
    return None if strongest is None else part.row(target, setting, strongest, metric)


def _ends(row: StudyRow) -> tuple[float | None, float | None]:
    """Ends of the error bar; no bar where there is no interval."""
    return (row.value if row.low is None else row.low), (row.value if row.high is None else row.high)


def _looks(count: int) -> list[dict[str, Any]]:
    """Undefended first, in ink."""
    colors, markers = (INK, *COLORS), ("o", *MARKERS)
    return [{"color": colors[i % len(colors)], "marker": markers[i % len(markers)]} for i in range(count)]
