"""Figures of studies: leakage by setting and by risk factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from palisade.evaluation.figures.style import (
    FIGURE_STYLE,
    GUESSING_LINE,
    INK_COLOR,
    LINE_COLORS,
    LINE_MARKERS,
    PAPER_COLOR,
    figure,
    percent,
)
from palisade.evaluation.result import AUC, REPORTED_FPRS
from palisade.evaluation.studies.studies import ACCURACY_GAP, TPR, Study, StudyRow, cell

LEAKAGE_COLORMAP = LinearSegmentedColormap.from_list("found", ["#f1f4f8", LINE_COLORS[0]])
"""One hue from light to dark: distinct for the color-blind, and in print."""
DARK_SHADE = 0.7
DRAWN_METRICS = {
    TPR: ("TPR at 1 % FPR", REPORTED_FPRS[0]),
    AUC: ("AUC", 0.5),
    ACCURACY_GAP: ("Accuracy on members − on non-members", 0.0),
}
"""Metrics that are drawn: the name, and the value where nothing leaks."""


def study(results: Study) -> Figure:
    """Two maps with the settings as columns: darker where attacks find more."""
    settings, first = results.settings, results.targets[0]
    strongest = {
        (target, setting): results.strongest(target, setting) for target in results.targets for setting in settings
    }

    def best(target: str, setting: str) -> tuple[float | None, str]:
        attack = strongest[target, setting]
        if attack is None:
            return None, "all skipped"
        return results.value(target, setting, attack, TPR), f"{cell(results, target, setting, attack)}\n{attack}"

    def single(attack: str, setting: str) -> tuple[float | None, str]:
        return results.value(first, setting, attack, TPR), cell(results, first, setting, attack)

    rows = len(results.targets), len(results.attacks(first))
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(2.6 + 1.7 * len(settings), 1.6 + 0.5 * rows[0] + 0.36 * rows[1])
        upper, lower = fig.subplots(2, 1, height_ratios=(0.5 * rows[0], 0.36 * rows[1]))
        _map(upper, results.targets, settings, best)
        _map(lower, results.attacks(first), settings, single)
        upper.set_title("Strongest attack: TPR at 1 % FPR · AUC")
        lower.set_title(f"Every attack on {first}")
        for axes, down in ((upper, "target ↓"), (lower, "attack ↓")):
            axes.set(xlabel=f"{results.varied} →", ylabel=down)
    return fig


def _map(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], text_of: Callable[[str, str], tuple[float | None, str]]
) -> None:
    cells = [[text_of(row, column) for column in columns] for row in rows]
    values = np.array(
        [[np.nan if value is None else max(value, REPORTED_FPRS[0]) for value, _ in line] for line in cells]
    )
    scale = LogNorm(REPORTED_FPRS[0], 1.0)
    axes.imshow(values, cmap=LEAKAGE_COLORMAP, norm=scale, aspect="auto")
    for y, line in enumerate(cells):
        for x, (_, text) in enumerate(line):
            dark = not np.isnan(values[y, x]) and float(scale(values[y, x])) > DARK_SHADE
            axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=PAPER_COLOR if dark else INK_COLOR)
    axes.set_xticks(range(len(columns)), [column.replace(", ", ",\n") for column in columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, top=False, bottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def factors(results: Study) -> Figure:
    """A column a factor, a row a metric; of attacks the strongest at each value. Bars: 95 % intervals."""
    parts = results.parts
    shown = [metric for metric in DRAWN_METRICS if any(row.metric == metric for row in results.rows)]
    colors = dict(zip(results.targets, _looks(len(results.targets)), strict=True))
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(1.2 + 2.9 * len(parts), 2.2 * len(shown))
        panels = fig.subplots(len(shown), len(parts), sharex="col", sharey="row", squeeze=False)
        for column, part in enumerate(parts):
            for axes, metric in zip(panels[:, column], shown, strict=True):
                _panel(axes, part, metric, colors)
            panels[-1, column].set_xlabel(f"{part.varied} →")
        for axes, metric in zip(panels[:, 0], shown, strict=True):
            axes.set_title(DRAWN_METRICS[metric][0])
            if metric != AUC:
                axes.yaxis.set_major_formatter(percent)
        if len(results.targets) > 1:
            drawn = [axes.get_legend_handles_labels() for axes in panels[0]]
            handles = {label: line for lines, labels in drawn for line, label in zip(lines, labels, strict=True)}
            fig.legend(handles.values(), handles.keys(), loc="outside lower left")
    return fig


def _panel(axes: Axes, part: Study, metric: str, looks: Mapping[str, dict[str, Any]]) -> None:
    axes.axhline(DRAWN_METRICS[metric][1], **GUESSING_LINE)
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
    if metric == ACCURACY_GAP:
        return part.row(target, setting, "", ACCURACY_GAP)
    strongest = part.strongest(target, setting)
    return None if strongest is None else part.row(target, setting, strongest, metric)


def _ends(row: StudyRow) -> tuple[float | None, float | None]:
    """Ends of the error bar; no bar where there is no interval."""
    return (row.value if row.low is None else row.low), (row.value if row.high is None else row.high)


def _looks(count: int) -> list[dict[str, Any]]:
    """Undefended first, in ink."""
    colors, markers = (INK_COLOR, *LINE_COLORS), ("o", *LINE_MARKERS)
    return [{"color": colors[i % len(colors)], "marker": markers[i % len(markers)]} for i in range(count)]
