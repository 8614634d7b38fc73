"""The exposure figure: how many records are found in how large a share of the models trained on them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from scipy.stats import binom

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.style import GUESSING, MUTED, STYLE, fading, figure, looks, percent
from palisade.evaluation.labels import title
from palisade.evaluation.measuring.exposure import FPR, MOSTLY, Exposure, exposures

GRID = np.linspace(0, 1, 401)[1:]


def exposure(comparison: Comparison) -> Figure:
    """Records found in at least a share of their models, a line a run, beside what guessing would reach.

    Raises:
        ValueError: if the runs are not comparable, or of none it is known how exposed its records are.
    """
    lines = comparison.readable
    known = {result.run: exposed for result, exposed in exposures(comparison.results)}
    if not known:
        raise ValueError("results hold no exposure of single records; evaluate the runs anew")
    drawn: list[tuple[float, Line2D]] = []
    with mpl.rc_context(STYLE):
        made = figure(9.4, 4.6)
        axes = made.subplots()
        for line in lines:
            for result, alpha in fading([result for result in line.runs if result.run in known]):
                counts = _at_least(known[result.run])
                shown, look = np.where(counts > 0, counts, np.nan), looks(lines)[line.name]
                (curve,) = axes.plot(
                    GRID, shown, label=title(result), alpha=alpha, drawstyle="steps-pre", zorder=3, **look.line
                )
                drawn.append((float(counts[GRID > MOSTLY].sum()), curve))
        largest = max(known.values(), key=lambda exposed: len(exposed.record))
        axes.plot(GRID, _by_luck(largest), **GUESSING)
        axes.axvline(MOSTLY, color=MUTED, lw=0.8, zorder=1)
        axes.set(xlim=(0, 1), yscale="log", ylim=(0.8, 1.6 * len(largest.record)))
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="found in at least this share of the models trained on them", ylabel="records")
        axes.set_title("How many records are exposed")
        keys = [curve for _, curve in sorted(drawn, key=lambda pair: -pair[0])]
        keys += [Line2D([], [], label="guessing", **GUESSING)]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return made


def _at_least(exposed: Exposure) -> np.ndarray:
    """Number of records that are found in at least each share of the grid."""
    rising = np.sort(exposed.value[exposed.models > 0])
    return len(rising) - np.searchsorted(rising, GRID - 1e-9)


def _by_luck(exposed: Exposure) -> np.ndarray:
    """Its mean if the attack guessed: 1 % of non-members are accused, and of members as well."""
    models, records = np.unique(exposed.models[exposed.models > 0], return_counts=True)
    needed = np.ceil(GRID[:, None] * models - 1e-9)
    expected: np.ndarray = binom.sf(needed - 1, models, FPR) @ records
    return expected
