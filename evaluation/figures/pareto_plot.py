"""Pareto plot of a search: every run that it tried, and the frontier among them."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.marks import ends, leakage, scale, span, utility
from palisade.evaluation.figures.placement import Label
from palisade.evaluation.figures.style import GUESSING, STYLE, figure, looks, percent
from palisade.evaluation.figures.tradeoff_panel import FRONTIER, STAR, write
from palisade.evaluation.guessing import drawn_level
from palisade.evaluation.labels import setting
from palisade.evaluation.result import FPR

PALE = 0.3
"""Opacity of a run that another one beats in both."""


def pareto(comparison: Comparison) -> Figure:
    """Utility against leakage of all runs; those on the frontier in full color, with bars and labels.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines, best = comparison.series, comparison.frontier
    look, labels = looks(lines), []
    with mpl.rc_context(STYLE):
        made = figure(7.6, 5.4)
        axes = made.subplots()
        lowest = scale(axes, lines)
        highest = [span(point.leakage)[1] for line in lines for point in line.points]
        axes.set_ylim(top=min(1.3, 1.5 * max([FPR, *highest])))
        for line in lines:
            marks = {**look[line.name].marks, "ls": "none", "ms": STAR if line.undefended else 7}
            axes.plot([], [], label=line.name, **marks)
            for point in line.points:
                x, y, color = utility(point), leakage(point, lowest), look[line.name].color
                axes.plot(x, y, zorder=4, **{**marks, "alpha": 1.0 if point in best else PALE})
                if point in best:
                    bars = ends(point.leakage, lowest), ends(point.utility)
                    axes.errorbar(x, y, *bars, color=color, lw=1.1, zorder=3)
                    labels.append(Label(x=x, y=y, text=setting(point.result), color=color))
        axes.plot([utility(p) for p in best], [leakage(p, lowest) for p in best], label="frontier", **FRONTIER)
        axes.axhline(drawn_level(comparison.results), label="guessing", **GUESSING)
        measure = comparison.results[0].utility
        if measure.is_rate:
            axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.xaxis.set_inverted(not measure.higher_is_better)  # to the right is more useful, whatever the measure
        axes.set(
            xlabel=measure.axis, ylabel=f"members found (TPR) at {100 * FPR:g} % FPR", title="What the search found"
        )
        made.legend(loc="outside lower center", ncols=5)
        write({axes: labels}, lines)
    return made
