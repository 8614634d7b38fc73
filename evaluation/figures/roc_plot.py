"""The ROC figure: how many members attacks find at few false accusations."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palisade.evaluation.comparison import Comparison, ceiling
from palisade.evaluation.figures.style import CEILING, GUESSING, MUTED, STYLE, fading, figure, looks, rates
from palisade.evaluation.labels import title
from palisade.evaluation.result import AUC, FPR, Result
from palisade.evaluation.statistics.chance import chance_level

LOWEST_FPR = 1e-4


def roc(comparison: Comparison) -> Figure:
    """The ROC of each run's strongest attack, under the ceiling that its claim proves.

    Raises:
        ValueError: if the runs are not comparable.
    """
    lines = comparison.readable
    starts = [result.roc[result.strongest][0][0] for result in comparison.results if result.attacks]
    lowest = max(LOWEST_FPR, min((start for start in starts if start > 0), default=LOWEST_FPR))
    grid = np.geomspace(lowest, 1, 200)
    drawn: list[tuple[float, Line2D]] = []
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        for line in lines:
            look = looks(lines)[line.name]
            for result, alpha in fading([result for result in line.runs if result.attacks]):
                fpr, tpr = (np.asarray(values, dtype=np.float64) for values in result.roc[result.strongest])
                shown, label = np.where(tpr > 0, tpr, np.nan), f"{title(result)} · {result.strongest}"
                (curve,) = axes.plot(fpr, shown, label=label, zorder=3, alpha=alpha, **look.curve)
                drawn.append((float(np.interp(FPR, fpr, tpr)), curve))
                if (limit := ceiling(result, grid)) is not None and limit[0] < 1:
                    label = f"_ceiling of {title(result)}"
                    axes.plot(grid, limit, label=label, alpha=alpha, color=look.color, **CEILING)
        which = "one run of each defense" if comparison.are_many else "each run"
        runs = [result for line in lines for result in line.runs]
        axes.plot(grid, _guessing(runs, grid), label="_guessing", **GUESSING)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title=f"Strongest attack on {which}")
        keys = [curve for _, curve in sorted(drawn, key=lambda pair: -pair[0])]
        if any(str(curve.get_label()).startswith("_ceiling") for curve in axes.lines):
            keys += [Line2D([], [], color=MUTED, label="ceiling that ε proves (color of the run)", **CEILING)]
        keys += [Line2D([], [], label="guessing", **GUESSING)]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return made


def _guessing(results: Sequence[Result], fpr: np.ndarray) -> np.ndarray:
    """The TPR that guessing reaches on average: above the diagonal where few non-members set the threshold.

    Of the run whose models have the fewest non-members; the diagonal where they are not counted.
    """
    rows = [(result, result.get(AUC, attack=result.strongest)) for result in results if result.attacks]
    counts = [row.nonmembers / result.models for result, row in rows if row.nonmembers]
    levels = np.array([chance_level([round(min(counts))], rate) if counts else rate for rate in fpr])
    return np.where(np.isnan(levels), fpr, levels)
