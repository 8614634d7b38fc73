"""Style of all figures, and the marks that points leave on them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from palisade.evaluation.comparison import Point, Series
from palisade.evaluation.result import AUC, FPR, GUESSING_AUC, Result, Row, tpr_at
from palisade.evaluation.utility import AFFORDABLE_LOSS
from palisade.targets.files import replacing

INK_COLOR, MUTED_COLOR, PAPER_COLOR = "#1a1d21", "#6b7178", "#ffffff"
VIOLATED_COLOR = "#c0182b"
LEAKAGE_LABELS = {tpr_at(FPR): "members found (TPR) at 1 % FPR", AUC: "AUC of the strongest attack"}
AUC_MARGIN = 0.02
"""Room above and below the values on an axis of AUC."""
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#8a8a1f", "#44318d")
"""Okabe & Ito (2008): distinct for the color-blind, and by lightness in print; then three of Tol's (2021), darker."""
LINE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
"""One fewer than colors: no two lines share both before there are 72."""
REPEATED_COLOR_STROKE = (0, (4, 1.2))
"""Stroke of a line whose color is an earlier one's."""
CANARY_LOOKS: tuple[tuple[str, Any], ...] = (
    ("<", (0, (3, 1.2, 1, 1.2))),
    ("p", (0, (1, 1))),
    (">", (0, (1, 1, 1, 2.5))),
    ("d", (0, (6, 1.2, 1, 1.2, 1, 1.2))),
)
"""Marker and stroke of lines through canary fleets, a kind each; none is dashed as ceilings are."""
CONSTANT_LINE: dict[str, Any] = {
    "color": MUTED_COLOR,
    "lw": 1.1,
    "ls": (0, (5, 1.5, 1, 1.5)),
    "label": "always one class",
}
GUESSING_LINE: dict[str, Any] = {"color": MUTED_COLOR, "lw": 1.1, "ls": (0, (1, 2))}
CEILING_LINE: dict[str, Any] = {"lw": 1.1, "ls": (0, (7, 4))}
FIGURE_STYLE: Any = {
    "figure.dpi": 100, "savefig.dpi": 200, "figure.facecolor": PAPER_COLOR, "axes.facecolor": "none",
    "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "text.color": INK_COLOR, "axes.edgecolor": MUTED_COLOR, "axes.labelcolor": INK_COLOR,
    "xtick.color": MUTED_COLOR, "ytick.color": MUTED_COLOR,
    "xtick.labelcolor": INK_COLOR, "ytick.labelcolor": INK_COLOR, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": MUTED_COLOR, "grid.alpha": 0.18, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "lines.markersize": 6, "errorbar.capsize": 2.5,
    "legend.frameon": False, "legend.fontsize": 9, "svg.hashsalt": "palisade",
}  # fmt: skip


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig


@dataclass(frozen=True)
class Look:
    """Color, marker and stroke of a line; hollow marks where only canaries were scored."""

    color: str
    marker: str
    stroke: Any = "-"
    hollow: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of Matplotlib for the line without marks."""
        return {"color": self.color, "ls": self.stroke}

    @property
    def marks(self) -> dict[str, Any]:
        """The line with its marks."""
        face, edge, width = (PAPER_COLOR, self.color, 1.3) if self.hollow else (self.color, PAPER_COLOR, 0.8)
        return {**self.line, "marker": self.marker, "mfc": face, "mec": edge, "mew": width}

    @property
    def curve(self) -> dict[str, Any]:
        """Keywords for a curve through many points: a few marks, and only where color and stroke are not enough."""
        return self.line if self.stroke == "-" else {**self.marks, "ms": 5, "markevery": 0.15}


def looks(lines: Sequence[Series]) -> dict[str, Look]:
    """The look of each line by its name: a color a defense, undefended in ink; marker and stroke a kind of canary."""
    defended = list(dict.fromkeys(line.defense for line in lines if not line.undefended))
    turns: dict[str, tuple[str, str, Any]] = {
        name: (
            LINE_COLORS[i % len(LINE_COLORS)],
            LINE_MARKERS[i % len(LINE_MARKERS)],
            "-" if i < len(LINE_COLORS) else REPEATED_COLOR_STROKE,
        )
        for i, name in enumerate(defended)
    }
    kinds = sorted({line.canary for line in lines} - {"none"})
    drawn = {kind: CANARY_LOOKS[i % len(CANARY_LOOKS)] for i, kind in enumerate(kinds)}
    by_name = {}
    for line in lines:
        color, *own = turns.get(line.defense, (INK_COLOR, "*", "-"))
        marker, stroke = drawn.get(line.canary, own)
        by_name[line.name] = Look(color, marker, stroke, hollow=line.canary in drawn)
    return by_name


def fading(runs: Sequence[Result]) -> list[tuple[Result, float]]:
    """The runs of a line, each with its opacity."""
    return list(zip(runs, np.linspace(1, 0.45, len(runs)).tolist(), strict=True))


def rates(axis: Axis, ticks: Sequence[float] = (1.0,)) -> None:
    """A logarithmic axis of rates in percent, with these ticks in every decade."""
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(percent))


def percent(value: float, position: int | None = None) -> str:
    """A share in percent for an axis; Matplotlib's formatters add the tick's position, which is not used."""
    return f"{100 * value:.4g} %"


def save(drawn: Figure, path: Path) -> None:
    """Writes a figure, in the format that the name ends with."""
    with replacing(path) as temporary:
        temporary.write_bytes(_render(drawn, path.suffix[1:]))


def svg(drawn: Figure) -> str:
    """A figure as SVG text, the same each time."""
    return _render(drawn, "svg").decode()


def _render(drawn: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(FIGURE_STYLE):
        drawn.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    drawn.set_layout_engine("none")  # laid out once, whatever the format
    return buffer.getvalue()


def scale(axes: Axes, lines: Sequence[Series], *, room: float) -> float:
    """An axis of leakage, logarithmic of TPR, linear of AUC; returns its lower end, where a TPR of 0 is drawn.

    Args:
        axes: of the panel.
        lines: what is drawn.
        room: factor by which an axis of TPR goes beyond the highest interval, such as for a legend.
    """
    rows = [point.leakage for line in lines for point in line.points]
    if lines[0].metric == AUC:
        lowest = min([GUESSING_AUC, *(span(row)[0] for row in rows)]) - AUC_MARGIN
        axes.set_ylim(lowest, 1 + AUC_MARGIN)
        return lowest
    lowest = min([FPR, *(value for row in rows for value in (row.value, row.low) if value)]) / 1.6
    axes.set_yscale("log")
    axes.set_ylim(lowest, min(1.3, room * max([FPR, *(span(row)[1] for row in rows)])))
    rates(axes.yaxis, (1.0, 2.0, 5.0))
    return lowest


def utility(point: Point) -> float:
    """The utility of a run on the axis; 0 where there is none."""
    return point.utility.value or 0.0


def constant_utility(points: Sequence[Point]) -> float | None:
    """The utility of naming one class always, if it is near enough to those of the points to stand on their axis."""
    known = [answer.value for point in points if (answer := point.result.constant_answer) and answer.value is not None]
    if not known:
        return None
    least, most = min(map(utility, points)), max(map(utility, points))
    return known[0] if least - known[0] <= max(most - least, AFFORDABLE_LOSS) else None


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
