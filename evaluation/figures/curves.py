"""Curves of a report: ROCs of runs and of one model, exposure of records, and p-values of records in question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from scipy.stats import binom

from palisade.evaluation.comparison import Comparison, ceiling
from palisade.evaluation.figures.style import (
    CEILING_LINE,
    FIGURE_STYLE,
    GUESSING_LINE,
    LINE_COLORS,
    MUTED_COLOR,
    fading,
    figure,
    looks,
    percent,
    rates,
)
from palisade.evaluation.labels import label
from palisade.evaluation.measuring.exposure import HIGH_EXPOSURE, Exposure, exposures
from palisade.evaluation.result import AUC, BLIND_BASELINE, FPR, Result
from palisade.evaluation.statistics.chance import chance_level
from palisade.evaluation.statistics.metrics import RocBand, roc_band
from palisade.evaluation.statistics.roc import Roc

LOWEST_FPR = 1e-4
SHARE_GRID = np.linspace(0, 1, 401)[1:]


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
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(9.4, 5.2)
        axes = fig.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        for line in lines:
            look = looks(lines)[line.name]
            for result, alpha in fading([result for result in line.runs if result.attacks]):
                fpr, tpr = (np.asarray(values, dtype=np.float64) for values in result.roc[result.strongest])
                shown, name = np.where(tpr > 0, tpr, np.nan), f"{label(result)} · {result.strongest}"
                (curve,) = axes.plot(fpr, shown, label=name, zorder=3, alpha=alpha, **look.curve)
                drawn.append((float(np.interp(FPR, fpr, tpr)), curve))
                if (limit := ceiling(result, grid)) is not None and limit[0] < 1:
                    name = f"_ceiling of {label(result)}"
                    axes.plot(grid, limit, label=name, alpha=alpha, color=look.color, **CEILING_LINE)
        which = "one run of each defense" if comparison.are_many else "each run"
        runs = [result for line in lines for result in line.runs]
        axes.plot(grid, _guessing(runs, grid), label="_guessing", **GUESSING_LINE)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title=f"Strongest attack on {which}")
        keys = [curve for _, curve in sorted(drawn, key=lambda pair: -pair[0])]
        if any(str(curve.get_label()).startswith("_ceiling") for curve in axes.lines):
            keys += [
                Line2D([], [], color=MUTED_COLOR, label="ceiling that ε proves (color of the run)", **CEILING_LINE)
            ]
        keys += [Line2D([], [], label="guessing", **GUESSING_LINE)]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return fig


def _guessing(results: Sequence[Result], fpr: np.ndarray) -> np.ndarray:
    """The TPR that guessing reaches on average: above the diagonal where few non-members set the threshold.

    Of the run whose models have the fewest non-members; the diagonal where they are not counted.
    """
    rows = [(result, result.get(AUC, attack=result.strongest)) for result in results if result.attacks]
    counts = [row.nonmembers / result.models for result, row in rows if row.nonmembers]
    levels = np.array([chance_level([round(min(counts))], rate) if counts else rate for rate in fpr])
    return np.where(np.isnan(levels), fpr, levels)


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
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(9.4, 4.6)
        axes = fig.subplots()
        for line in lines:
            for result, alpha in fading([result for result in line.runs if result.run in known]):
                counts = _at_least(known[result.run])
                shown, look = np.where(counts > 0, counts, np.nan), looks(lines)[line.name]
                (curve,) = axes.plot(
                    SHARE_GRID, shown, label=label(result), alpha=alpha, drawstyle="steps-pre", zorder=3, **look.line
                )
                drawn.append((float(counts[SHARE_GRID > HIGH_EXPOSURE].sum()), curve))
        largest = max(known.values(), key=lambda exposed: len(exposed.record))
        axes.plot(SHARE_GRID, _by_luck(largest), **GUESSING_LINE)
        axes.axvline(HIGH_EXPOSURE, color=MUTED_COLOR, lw=0.8, zorder=1)
        axes.set(xlim=(0, 1), yscale="log", ylim=(0.8, 1.6 * len(largest.record)))
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="found in at least this share of the models trained on them", ylabel="records")
        axes.set_title("How many records are exposed")
        keys = [curve for _, curve in sorted(drawn, key=lambda pair: -pair[0])]
        keys += [Line2D([], [], label="guessing", **GUESSING_LINE)]
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return fig


def _at_least(exposed: Exposure) -> np.ndarray:
    """Number of records that are found in at least each share of the grid."""
    rising = np.sort(exposed.value[exposed.models > 0])
    return len(rising) - np.searchsorted(rising, SHARE_GRID - 1e-9)


def _by_luck(exposed: Exposure) -> np.ndarray:
    """Its mean if the attack guessed: 1 % of non-members are accused, and of members as well."""
    models, records = np.unique(exposed.models[exposed.models > 0], return_counts=True)
    needed = np.ceil(SHARE_GRID[:, None] * models - 1e-9)
    expected: np.ndarray = binom.sf(needed - 1, models, FPR) @ records
    return expected


def roc_of_model(result: Result) -> Figure:
    """Members found over non-members accused, with the band that holds all of the true curve at 95 % confidence.

    Args:
        result: of one model that exists already.
    """
    assert result.sides is not None
    lowest = 1 / result.sides.nonmembers
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(9.4, 5.2)
        axes = fig.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        blind = {"color": MUTED_COLOR, "ls": (0, (4, 2)), "label": "blind baseline: never asks the model"}
        drawn: list[tuple[str, dict[str, Any]]] = [(BLIND_BASELINE, blind)]
        if result.attacks:
            drawn.insert(0, (result.strongest, {"color": LINE_COLORS[0], "label": result.strongest}))
        for name, look in drawn:
            points = _points(result, name)
            tpr = np.where(points.tpr > 0, points.tpr, np.nan)
            axes.plot(np.maximum(points.fpr, lowest), tpr, drawstyle="steps-post", zorder=3, **look)
            if name != BLIND_BASELINE and not result.sides.over_persons:  # it takes records as independent
                fprs, low, high = _steps(roc_band(points))
                low = np.maximum(low, lowest / 10)
                axes.fill_between(fprs, low, high, color=LINE_COLORS[0], alpha=0.15, lw=0, label="95 %")
        grid = np.geomspace(lowest, 1, 50)
        axes.plot(grid, grid, label="guessing", **GUESSING_LINE)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title="Strongest attack on this model")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return fig


def _steps(band: RocBand) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners of a band: between two FPRs holds the lower limit of the left one and the upper limit of the right."""
    return np.repeat(band.fpr, 2)[1:-1], np.repeat(band.low[:-1], 2), np.repeat(band.high[1:], 2)


def _points(result: Result, attack: str) -> Roc:
    """Every point of the ROC of one model."""
    auc = result.get(AUC, attack=attack)
    members, nonmembers = auc.members or 0, auc.nonmembers or 0
    fpr, tpr = (np.array(rates) for rates in result.roc[attack])
    counts = {"false": np.rint(fpr * nonmembers), "true": np.rint(tpr * members)}
    return Roc(**counts, thresholds=np.full(len(fpr), np.nan), members=members, nonmembers=nonmembers)


def p_value_curve(p: Float[np.ndarray, "records"]) -> Figure:
    """The share of the records with a p-value up to each level; on the diagonal if none was used."""
    lowest = float(min(p.min(), 0.01)) / 1.5
    with mpl.rc_context(FIGURE_STYLE):
        fig = figure(9.4, 5.2)
        axes = fig.subplots()
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02))
        rising = np.sort(p)
        share = np.arange(1, len(p) + 1) / len(p)
        levels, shares = [lowest, *rising, 1.0], [0.0, *share, 1.0]
        axes.plot(levels, shares, drawstyle="steps-post", color=LINE_COLORS[0], label="these records", zorder=3)
        grid = np.geomspace(lowest, 1, 100)
        axes.plot(grid, grid, label="expected if none was used", **GUESSING_LINE)
        rates(axes.xaxis)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set(xlabel="p-value", ylabel="records with at most this p-value", title="Records against non-members")
        axes.legend(loc="upper left")
    return fig
