"""The table that ends an evaluation in the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.claims import violations
from evaluation.curves import (
    UTILITY,
    epsilon_text,
    has_canaries,
    is_undefended,
    ordered,
    setting,
    strongest_row,
    title,
)
from evaluation.findings import AUC, FPRS, Findings, Row, tpr_at
from evaluation.flags import VIOLATED, flags

WIDTH = 120
NOTHING = "–"
HEADINGS = (
    "defense", "ε", "ε lower\nbound", "test\naccuracy", "attack", "AUC", "TPR at 1% FPR\n[95 % interval]",
    "TPR at\n0.1% FPR", "flags",
)  # fmt: skip
WORDS = ("defense", "attack", "flags")
"""Headings of columns that hold no numbers."""
STYLES = {"violated": "bold red", "undefended": "bold", "": None}


class Line(NamedTuple):
    """One run's line: its cells by `HEADINGS`, and whether it is `violated`, `undefended` or neither."""

    kind: str
    cells: tuple[str, ...]


class Skip(NamedTuple):
    """Attacks that were skipped for one reason on the same runs."""

    attacks: tuple[str, ...]
    reason: str
    titles: tuple[str, ...]


def console_for(file: TextIO | None = None) -> Console:
    """Where tables are printed, of a fixed width where there is no terminal."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def show(findings: Sequence[Findings], file: TextIO | None = None) -> None:
    """Prints each run with its strongest attack, what the flags mean and what was skipped; plain without a terminal."""
    console = console_for(file)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in HEADINGS:
        words = heading in WORDS
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for line in lines(findings):
        table.add_row(*line.cells, style=STYLES[line.kind])
    console.print(table)
    violated = violations(findings)
    for violation in violated:
        told = f"{VIOLATED}, {title(violation.found)}: "
        console.print(Text.assemble((told, "bold red"), flags(violation.found, violated)[0].sentence))
    meanings = {flag.name: flag.sentence for found in ordered(findings) for flag in flags(found, ())}
    for name, sentence in meanings.items():
        console.print(Text.assemble((f"{name}: ", "yellow"), sentence))
    for attacks, reason, titles in skips(findings):
        where = "" if len(titles) == len(findings) else f" ({len(titles)} of {len(findings)} runs)"
        console.print(Text.assemble((f"skipped {', '.join(attacks)}: ", "dim"), reason + where))


def lines(findings: Sequence[Findings]) -> list[Line]:
    """A line a run; that of a fleet with canaries stands under that of the same defense without."""
    violated = violations(findings)
    false = {violation.found.run for violation in violated}
    told: list[Line] = []
    above = None
    for found in ordered(findings):
        first, *others = cells(found, "\n".join(dict.fromkeys(flag.name for flag in flags(found, violated))))
        place = setting(found), found.seed
        if has_canaries(found):
            first = ("" if place == above else f"{first}\n") + f"  {found.canary} canaries"
        above = place
        kind = "violated" if found.run in false else "undefended" if is_undefended(found) else ""
        told.append(Line(kind, (first, *others)))
    return told


def cells(found: Findings, flagged: str) -> tuple[str, ...]:
    """One run's values by `HEADINGS`."""
    coarse, fine = (strongest_row(found, tpr_at(fpr)) for fpr in FPRS)
    auc = strongest_row(found, AUC)
    return (
        _defense(found),
        NOTHING if found.epsilon is None else epsilon_text(found.epsilon),
        bound_text(found, "one_run"),
        percent(found.get(UTILITY)),
        found.strongest if found.attacks else "all skipped",
        NOTHING if auc is None or auc.value is None else f"{auc.value:.3f}",
        percent(coarse, interval=True),
        percent(fine),
        flagged,
    )


def skips(findings: Sequence[Findings]) -> list[Skip]:
    """What was skipped, each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for found in ordered(findings):
        for attack, reason in found.skipped.items():
            where.setdefault((attack, reason), []).append(title(found))
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (attack, reason), titles in where.items():
        together.setdefault((reason, tuple(titles)), []).append(attack)
    return [Skip(tuple(attacks), reason, titles) for (reason, titles), attacks in together.items()]


def bound_text(found: Findings, method: str) -> str:
    """A lower bound on ε, rounded down, and the ceiling that a perfect attack would reach: `0.31 (≤ 4.1)`."""
    if not found.audit:
        return NOTHING
    bound, most = found.audit["bounds"][method], found.audit["ceilings"][method]
    shown = "∞" if math.isinf(bound) else f"{math.floor(100 * bound) / 100:.2f}"
    return f"{shown} (≤ {'∞' if math.isinf(most) else f'{most:.1f}'})"


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
