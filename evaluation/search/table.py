"""Output of a search: its frontier in the terminal, every trial as a row, and the figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.pareto_plot import pareto
from palisade.evaluation.figures.style import save, svg
from palisade.evaluation.format import percent
from palisade.evaluation.labels import title
from palisade.evaluation.result import FPR, tpr_at
from palisade.evaluation.search.frontier_search import FAILED, RUN, SETTINGS
from palisade.evaluation.search.runs import Searched
from palisade.evaluation.terminal import empty_table
from palisade.targets.files import write

COLUMNS = ("trial", "settings", "utility", "tpr", "on_frontier", "run", "seconds", "failed")
SELECTED = (
    "The frontier was chosen by the very numbers that it shows, on the same records, and each proposal by earlier ones:"
    " this flatters it. Before you rely on a setting, train it again with another seed=… and attack that run. No ε"
    " covers a search."
)


def frontier_table(searched: Searched) -> Table:
    """The frontier, utility and leakage rising."""
    table = empty_table()
    measure = searched.results[0].utility
    for heading in ("frontier", measure.words, f"TPR at {100 * FPR:g} % FPR", "attack", "run"):
        table.add_column(heading)
    for result in searched.frontier:
        leaking = percent(result.strongest_row(tpr_at(FPR)), interval=True)
        utility = measure.text(result.find(measure.metric), interval=True)
        table.add_row(title(result), utility, leaking, result.strongest, result.run)
    return table


def write_search(searched: Searched, folder: Path) -> list[Path]:
    """Writes trials.csv, pareto.png and pareto.svg into a folder, each file whole or not at all."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_rows(searched))
    write(folder / "trials.csv", buffer.getvalue())
    drawn = pareto(Comparison(searched.results))
    write(folder / "pareto.svg", svg(drawn))
    save(drawn, folder / "pareto.png")
    return [folder / "trials.csv", folder / "pareto.png"]


def _rows(searched: Searched) -> Iterator[dict[str, Any]]:
    best = {result.folder for result in searched.frontier}
    measure = searched.results[0].utility
    for trial in searched.trials:
        utility, tpr = (measure.worth(trial.values[0]), trial.values[1]) if trial.values else (None, None)
        folder = trial.user_attrs.get(RUN)
        seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        yield {
            "trial": trial.number, "settings": trial.user_attrs[SETTINGS], "utility": utility, "tpr": tpr,
            "on_frontier": folder in best, "run": folder, "seconds": seconds, "failed": trial.user_attrs.get(FAILED),
        }  # fmt: skip
