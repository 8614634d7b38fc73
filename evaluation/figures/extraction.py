"""Curves of what comes out of language models: texts over the length of the prompt, secrets over their copies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.style import (
    FIGURE_STYLE,
    GUESSING_LINE,
    INK_COLOR,
    LINE_COLORS,
    LINE_MARKERS,
    MUTED_COLOR,
    fading,
    figure,
    looks,
    percent,
    span,
)
from palisade.evaluation.labels import label
from palisade.evaluation.measuring.extraction import EXTRACTED_GREEDY, SECRET_EXPOSURE, SECRET_LIMIT
from palisade.evaluation.result import MEMBER_GROUP, NONMEMBER_GROUP, Row

GREEDY_PATTERN = re.compile(rf"{EXTRACTED_GREEDY}@(\d+)\+(\d+)$")
SECRET_PATTERN = re.compile(rf"{SECRET_EXPOSURE}@(\d+) copies$")
SIDE_STROKES = {MEMBER_GROUP: "-", NONMEMBER_GROUP: (0, (2, 1.6))}
SIDE_LABELS = {MEMBER_GROUP: "in the training set", NONMEMBER_GROUP: "not in it"}
UNSEEN_EXPOSURE = math.log2(math.e)
"""Mean exposure, in bits, of secrets that no model has seen."""
MIN_SHARE_SHOWN = 0.1
"""Share up to which the axis of extraction goes at least: where nothing comes out, no interval fills the picture."""
MOST_SHADED = 0.4
"""Opacity of all intervals together, which lie on top of each other where nothing comes out."""
RowsByRun = Mapping[str, Sequence[Row]]
LooksByRun = Mapping[str, Mapping[str, Any]]


def recitation_figures(comparison: Comparison) -> dict[str, Figure]:
    """Pictures of what the runs give back, by name; none of classifiers."""
    rows = {label(result): result.rows for result in comparison.results}
    lines = comparison.series
    own = {
        label(result): {"color": look.color, "marker": look.marker, "alpha": alpha}
        for line, look in zip(lines, looks(lines).values(), strict=True)
        for result, alpha in fading(line.runs)
    }
    names = [row.metric for own in rows.values() for row in own]
    suffixes = [int(match[2]) for name in names if (match := GREEDY_PATTERN.match(name))]
    figures: dict[str, Figure] = {}
    if suffixes:
        figures["extraction"] = extraction_over_prefix(rows, min(suffixes), own)
    if any(SECRET_PATTERN.match(name) for name in names):
        figures["secrets"] = exposure_over_copies(rows, own)
    return figures


def extraction_over_prefix(rows: RowsByRun, suffix: int, own: LooksByRun | None = None) -> Figure:
    """Share of texts whose next tokens greedy decoding gives, over the length of the prompt, IN beside OUT.

    Args:
        rows: of each run, by its label.
        suffix: tokens that must follow.
        own: color, marker and opacity of each run, as in other pictures; None: colors in turn.

    Raises:
        ValueError: if no run was asked about this suffix.
    """
    pattern = re.compile(rf"{EXTRACTED_GREEDY}@(\d+)\+{suffix}$")
    title = f"Texts given back word by word ({suffix} tokens)"
    fig = _over(rows, pattern, title, "tokens of the prompt", "extracted", own)
    axes = fig.axes[0]
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_ylim(-0.02 * (top := max(axes.get_ylim()[1], MIN_SHARE_SHOWN)), top)
    return fig


def exposure_over_copies(rows: RowsByRun, own: LooksByRun | None = None) -> Figure:
    """Mean exposure of secrets in bits over the number of their copies, IN beside OUT.

    Args:
        rows: of each run, by its label.
        own: color, marker and opacity of each run, as in other pictures; None: colors in turn.

    Raises:
        ValueError: if no run holds secrets.
    """
    fig = _over(rows, SECRET_PATTERN, "Secrets exposed", "copies in the training set", "exposure (bits)", own)
    axes = fig.axes[0]
    limits = {row.value for own in rows.values() for row in own if row.metric == SECRET_LIMIT and row.value is not None}
    for height in (*limits, UNSEEN_EXPOSURE):
        axes.axhline(height, **GUESSING_LINE)
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "color": MUTED_COLOR,
        "size": 8.5,
    }
    for limit in limits:
        axes.annotate("the right code comes first", (0, limit), (4, 3), **beside)
    axes.annotate("a code never seen", (1, UNSEEN_EXPOSURE), (4, 0), va="center", **beside)
    axes.set_ylim(0, 1.12 * max([axes.get_ylim()[1], *limits]))
    return fig


def _over(
    rows: RowsByRun, pattern: re.Pattern[str], title: str, xlabel: str, ylabel: str, own: LooksByRun | None
) -> Figure:
    """A line a run and side through the rows whose metric matches, at the number that it holds."""
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(8.4, 4.4)
        axes = fig.subplots()
        keys: list[Line2D] = []
        shaded: list[PolyCollection] = []
        ticks: set[int] = set()
        for place, (run, measured) in enumerate(rows.items()):
            turn = {"color": LINE_COLORS[place % len(LINE_COLORS)], "marker": LINE_MARKERS[place % len(LINE_MARKERS)]}
            look = turn if own is None else own[run]
            for group, stroke in SIDE_STROKES.items():
                points = sorted(
                    (int(match[1]), row.value, *span(row))
                    for row in measured
                    if row.group == group and row.value is not None and (match := pattern.match(row.metric))
                )
                if not points:
                    continue
                x, value, low, high = (list(column) for column in zip(*points, strict=True))
                ticks |= set(x)
                axes.plot(x, value, ls=stroke, label=f"{run}, {SIDE_LABELS[group]}", **look)
                shaded.append(axes.fill_between(x, low, high, color=look["color"], lw=0))
                if group == MEMBER_GROUP:
                    keys.append(Line2D([], [], label=run, **look))
        if not keys:
            raise ValueError(f"rows hold none of {pattern.pattern}; measure the runs with texts or secrets in question")
        for area in shaded:
            area.set_alpha(min(0.1, MOST_SHADED / len(shaded)))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        keys += [
            Line2D([], [], color=INK_COLOR, ls=stroke, label=SIDE_LABELS[group])
            for group, stroke in SIDE_STROKES.items()
        ]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return fig
