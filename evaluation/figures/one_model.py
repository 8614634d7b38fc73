"""Figures on one existing model: the ROC of its strongest attack, and p-values of records in question."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from palisade.evaluation.figures.style import COLORS, GUESSING, MUTED, STYLE, figure, rates
from palisade.evaluation.result import AUC, BLIND, Result
from palisade.evaluation.statistics.intervals import roc_band
from palisade.evaluation.statistics.roc import Roc


def roc_of_model(result: Result) -> Figure:
    """Members found over non-members accused, with the band that holds all of the true curve at 95 % confidence.

    Args:
        result: of one model that exists already.
    """
    assert result.sides is not None
    lowest = 1 / result.sides.nonmembers
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        blind = {"color": MUTED, "ls": (0, (4, 2)), "label": "blind baseline: never asks the model"}
        drawn: list[tuple[str, dict[str, Any]]] = [(BLIND, blind)]
        if result.attacks:
            drawn.insert(0, (result.strongest, {"color": COLORS[0], "label": result.strongest}))
        for name, look in drawn:
            points = _points(result, name)
            tpr = np.where(points.tpr > 0, points.tpr, np.nan)
            axes.plot(np.maximum(points.fpr, lowest), tpr, drawstyle="steps-post", zorder=3, **look)
            if name != BLIND and not result.sides.over_persons:  # it takes records as independent
                band = roc_band(points)
                low = np.maximum(band.low, lowest / 10)
                axes.fill_between(
                    band.fpr, low, band.high, step="post", color=COLORS[0], alpha=0.15, lw=0, label="95 %"
                )
        grid = np.geomspace(lowest, 1, 50)
        axes.plot(grid, grid, label="guessing", **GUESSING)
        rates(axes.xaxis)
        rates(axes.yaxis)
        axes.set(xlabel="FPR: non-members accused", ylabel="TPR: members found", title="Strongest attack on this model")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return made


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
    with mpl.rc_context(STYLE):
        made = figure(9.4, 5.2)
        axes = made.subplots()
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02))
        rising = np.sort(p)
        share = np.arange(1, len(p) + 1) / len(p)
        levels, shares = [lowest, *rising, 1.0], [0.0, *share, 1.0]
        axes.plot(levels, shares, drawstyle="steps-post", color=COLORS[0], label="these records", zorder=3)
        grid = np.geomspace(lowest, 1, 100)
        axes.plot(grid, grid, label="expected if none was used", **GUESSING)
        rates(axes.xaxis)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set(xlabel="p-value", ylabel="records with at most this p-value", title="Records against non-members")
        axes.legend(loc="upper left")
    return made
