"""The trade-off figure: what protection costs, in one style for page and print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.over_epsilon import OverEpsilon, has_bounds, has_claims
from palisade.evaluation.figures.style import COLORS, STYLE, figure
from palisade.evaluation.figures.tradeoff_panel import draw, focus, write


def tradeoff(comparison: Comparison) -> Figure:
    """Utility against leakage; where a guarantee is stated both over ε, and beside it what was measured of ε.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = comparison.series
    over = "" if not has_claims(lines) else "bcd" if has_bounds(lines) else "bc"
    with mpl.rc_context(STYLE):
        return _many(comparison, over) if len(lines) > len(COLORS) else _few(comparison, over)


def _few(comparison: Comparison, over: str) -> Figure:
    """One panel, and beside it under one another what is drawn over ε, of which only the lowest tells the ε."""
    made = figure(*((12.0, 7.4 if "d" in over else 5.2) if over else (6.6, 5.2)))
    rows: Any = [["a", name] for name in over] or [["a"]]
    panels = made.subplot_mosaic(rows, width_ratios=(1.15, 1) if over else None)
    if over:
        panels["b"].legend(handles=_over_epsilon([panels[name] for name in over], comparison), loc="lower right")
        for name in over[:-1]:
            panels[name].tick_params(labelbottom=False)
            panels[name].set_xlabel("")
    labels = draw(panels["a"], comparison)
    panels["a"].legend(loc="upper left")
    write({panels["a"]: labels}, comparison.series)
    return made


def _many(comparison: Comparison, over: str) -> Figure:
    """Beside the panel another one of the runs nearly as accurate as any; what is drawn over ε and a legend below."""
    made = figure(12.0, 10.6 if over else 6.6)
    rows: Any = [["a"] * 3 + ["near"] * 3] + [[name for name in over for _ in range(6 // len(over))]] * bool(over)
    panels = made.subplot_mosaic(rows, height_ratios=(1.5, 1) if over else None)
    labels = {panels[name]: draw(panels[name], comparison, pale=True) for name in ("a", "near")}
    labels = focus(panels["a"], panels["near"], labels, comparison.series)
    keys, _ = panels["a"].get_legend_handles_labels()
    if over:
        ceilings = _over_epsilon([panels[name] for name in over], comparison)
        keys += [key for key in ceilings if "ceiling" in str(key.get_label())]
    made.legend(handles=keys, loc="outside lower center", ncols=5, handlelength=3)
    write(labels, comparison.series)
    return made


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
