"""The table that ends an evaluation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.curves import UTILITY, epsilon_text, is_undefended, ordered, strongest_row
from evaluation.findings import AUC, FPRS, Findings, Row, tpr_at
from evaluation.flags import flags

WIDTH = 120
NOTHING = "–"
HEADINGS = ("defense", "ε", "test accuracy", "attack", "AUC", "TPR@1%FPR\n[95 % interval]", "TPR@0.1%FPR", "flags")


def show(findings: Sequence[Findings], file: TextIO | None = None) -> None:
    """Prints each run with its strongest attack, and what the flags mean; without colors where no terminal is."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_table(findings))
    meanings = {flag.name: flag.sentence for found in ordered(findings) for flag in flags(found)}
    for name, sentence in meanings.items():
        console.print(Text.assemble((f"{name}: ", "yellow"), sentence))


def _table(findings: Sequence[Findings]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("defense", "attack", "flags") else "right")
    for found in ordered(findings):
        table.add_row(*cells(found), style="bold" if is_undefended(found) else None)
    return table


def cells(found: Findings) -> tuple[str, ...]:
    """One run's line, by `HEADINGS`."""
    coarse, fine = (strongest_row(found, tpr_at(fpr)) for fpr in FPRS)
    auc = strongest_row(found, AUC)
    return (
        _defense(found),
        NOTHING if found.epsilon is None else epsilon_text(found.epsilon),
        percent(found.get(UTILITY)),
        found.strongest if found.attacks else "all skipped",
        NOTHING if auc is None or auc.value is None else f"{auc.value:.3f}",
        percent(coarse, interval=True),
        percent(fine),
        ", ".join(dict.fromkeys(flag.name for flag in flags(found))),
    )


def percent(row: Row | None, *, interval: bool = False) -> str:
    """A rate in percent, with its interval on request: `23.1 % [20.4–25.9]`."""
    if row is None or row.value is None:
        return NOTHING
    value = f"{100 * row.value:.1f} %"
    if not interval or row.low is None or row.high is None:
        return value
    return f"{value} [{100 * row.low:.1f}–{100 * row.high:.1f}]"


def _defense(found: Findings) -> str:
    """The defense with its strength, unless that is the ε of the next column."""
    name = found.defense if found.guard == "none" else f"{found.defense} + {found.guard}"
    return name if found.strength is None or found.epsilon is not None else f"{name} {found.strength:g}"
