"""The figure of a study: what the strongest attack finds on each target, and every attack on the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from palisade.evaluation.figures.style import COLORS, INK, PAPER, STYLE, figure
from palisade.evaluation.result import FPRS
from palisade.evaluation.studies.studies import TPR, Study, cell

SHADES = LinearSegmentedColormap.from_list("found", ["#f1f4f8", COLORS[0]])
"""One hue from light to dark: told apart by the color-blind, and in print."""
DARK = 0.7


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
    with mpl.rc_context(STYLE):
        made = figure(2.6 + 1.7 * len(settings), 1.6 + 0.5 * rows[0] + 0.36 * rows[1])
        upper, lower = made.subplots(2, 1, height_ratios=(0.5 * rows[0], 0.36 * rows[1]))
        _map(upper, results.targets, settings, best)
        _map(lower, results.attacks(first), settings, single)
        upper.set_title("Strongest attack: TPR at 1 % FPR · AUC")
        lower.set_title(f"Every attack on {first}")
        for axes, down in ((upper, "target ↓"), (lower, "attack ↓")):
            axes.set(xlabel=f"{results.varied} →", ylabel=down)
    return made


def _map(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], told: Callable[[str, str], tuple[float | None, str]]
) -> None:
    cells = [[told(row, column) for column in columns] for row in rows]
    values = np.array([[np.nan if value is None else max(value, FPRS[0]) for value, _ in line] for line in cells])
    scale = LogNorm(FPRS[0], 1.0)
    axes.imshow(values, cmap=SHADES, norm=scale, aspect="auto")
    for y, line in enumerate(cells):
        for x, (_, text) in enumerate(line):
            dark = not np.isnan(values[y, x]) and float(scale(values[y, x])) > DARK
            axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=PAPER if dark else INK)
    axes.set_xticks(range(len(columns)), [column.replace(", ", ",\n") for column in columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, top=False, bottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
