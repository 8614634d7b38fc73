"""The ROC figure: how many members attacks find at few false accusations."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palisade.evaluation.choice import are_many, readable
from palisade.evaluation.curves import FPR, ceiling, series
from palisade.evaluation.figures.style import CEILING, GUESSING, MUTED, STYLE, fading, figure, looks, rates
from palisade.evaluation.findings import AUC, Findings
from palisade.evaluation.statistics.chance import chance_level
from palisade.evaluation.titles import title

LOWEST_FPR = 1e-4


def roc(findings: Sequence[Findings]) -> Figure:
    """The ROC of each run's strongest attack, under the ceiling that its claim proves.

    Raises:
        ValueError: if the runs are not comparable.
    """
    every = series(findings)
    lines = readable(every)
    starts = [found.roc[found.strongest][0][0] for found in findings if found.attacks]
    lowest = max(LOWEST_FPR, min((start for start in starts if start > 0), default=LOWEST_FPR))
    grid = np.geomspace(lowest, 1, 200)
    drawn: list[tuple[float, Line2D]] = []
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        for line in lines:
            look = looks(lines)[line.name]
            for found, alpha in fading([found for found in line.runs if found.attacks]):
                fpr, tpr = (np.asarray(values, dtype=np.float64) for values in found.roc[found.strongest])
                shown, label = np.where(tpr > 0, tpr, np.nan), f"{title(found)} · {found.strongest}"
                (curve,) = axes.plot(fpr, shown, label=label, zorder=3, alpha=alpha, **look.curve)
                drawn.append((float(np.interp(FPR, fpr, tpr)), curve))
                if (limit := ceiling(found, grid)) is not None and limit[0] < 1:
                    label = f"_ceiling of {title(found)}"
                    axes.plot(grid, limit, label=label, alpha=alpha, color=look.color, **CEILING)
        which = "one run of each defense" if are_many(every) else "each run"
        runs = [found for line in lines for found in line.runs]
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


def _guessing(findings: Sequence[Findings], fpr: np.ndarray) -> np.ndarray:
    """The TPR that guessing reaches on average: above the diagonal where few non-members set the threshold.

    Of the run whose models have the fewest non-members; the diagonal where they are not counted.
    """
    rows = [(found, found.get(AUC, attack=found.strongest)) for found in findings if found.attacks]
    counts = [row.nonmembers / found.models for found, row in rows if row.nonmembers]
    levels = np.array([chance_level([round(min(counts))], rate) if counts else rate for rate in fpr])
    return np.where(np.isnan(levels), fpr, levels)
