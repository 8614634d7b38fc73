"""Error rates of the evaluation by simulation, before and after its statistics were corrected, in one table.

    python benchmarks/referee.py [--trials N]

Every row is a case in which an interval, a verdict or a gate claims to be wrong at most so often, simulated where the
truth is known. "Before" is the rule that stood here until the error was found; its code lives on in these simulations
alone. Brackets hold 95 % Clopper–Pearson intervals of the rates.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import referee_balanced
import referee_exposure
import referee_gate
import referee_noise
import referee_persons
from rich.console import Console
from rich.table import Table

from palisade.evaluation.statistics.metrics import clopper_pearson_interval

Rows = list[tuple[str, int, int, int]]
"""Case in words, errors before, errors after, trials."""
SIMULATED_CASES: tuple[Callable[[int], Rows], ...] = (
    referee_noise.rows,
    referee_exposure.rows,
    referee_balanced.rows,
    referee_gate.rows,
    referee_persons.rows,
)


def rate(errors: int, trials: int) -> str:
    """An error rate with its interval, such as `.05 [.02–.10]`."""
    low, high = clopper_pearson_interval(errors, trials)
    return f"{errors / trials:.3f} [{low:.3f}–{high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="of each case")
    trials = parser.parse_args().trials
    table = Table("case", "trials", "wrong before", "wrong now", box=None, header_style="bold")
    for simulate in SIMULATED_CASES:
        for case, before, after, simulated in simulate(trials):
            table.add_row(case, str(simulated), rate(before, simulated), rate(after, simulated))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
