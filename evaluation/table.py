"""The table that ends an evaluation in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

from rich.text import Text

from palisade.evaluation.claims import LEVEL, is_tested, level_of, violations, ways_of
from palisade.evaluation.curves import ordered, strongest_row
from palisade.evaluation.findings import AUC, FPRS, Findings, Row, tpr_at
from palisade.evaluation.flags.flags import VIOLATED, flags, meanings, refutation
from palisade.evaluation.guessing import guessing_range
from palisade.evaluation.reach import Reach
from palisade.evaluation.terminal import console_for, empty_table, show
from palisade.evaluation.titles import brief, epsilon_text, has_canaries, is_undefended, line_name, setting, title
from palisade.evaluation.utility import CALIBRATION, Utility
from palisade.targets.config import SHARE

NOTHING = "–"
UNRECORDED = (
    f"no share of guesses was recorded before training: {SHARE} counts as the first, and ways of auditing that were"
    " tried before evaluations recorded them are not corrected for"
)
IF_LEAKED = "if the weights leak"
"""Notice on attacks that hold the weights where a guard keeps these back."""
WORDS = ("defense", "attack", "flags")
"""Headings of columns that hold no numbers: cells of these, and no others, may take several lines."""
STYLES = {"violated": "bold red", "undefended": "bold", "": None}


def headings(utility: Utility) -> tuple[str, ...]:
    """Of the columns of a table of runs."""
    return (
        "defense", "ε", "ε lower\nbound", utility.words.replace(" ", "\n", 1), "calibration\nerror", "attack", "AUC",
        "TPR at 1% FPR\n[95 % interval]", "TPR at\n0.1% FPR", "flags",
    )  # fmt: skip


class Line(NamedTuple):
    """One run's line: its cells by `headings`.

    Args:
        kind: `violated`, `undefended` or neither.
        cells: by heading.
        opens: whether another defense, or the same behind another guard, begins here.
    """

    kind: str
    cells: tuple[str, ...]
    opens: bool = False


class Skip(NamedTuple):
    """Attacks that were skipped for one reason on the same runs."""

    attacks: tuple[str, ...]
    reason: str
    titles: tuple[str, ...]


def show_findings(findings: Sequence[Findings], file: TextIO | None = None) -> None:
    """Prints each run with its strongest attack, which claims its canaries can refute, what the flags mean and what was
    skipped; plain without a terminal."""
    console = console_for(file)
    table = empty_table()
    told, named = lines(findings), headings(findings[0].utility)
    columns = [(name, values) for name, *values in zip(named, *(line.cells for line in told), strict=True)]
    # A column without a number has nothing to say, and others need its place.
    shown = [name for name, values in columns if set(values) != {NOTHING}]
    for name in shown:
        words = name in WORDS
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for line in told:
        if line.opens:
            table.add_section()
        cells = [cell for name, cell in zip(named, line.cells, strict=True) if name in shown]
        table.add_row(*cells, style=STYLES[line.kind])
    show(console, table)
    if guessed := guessing_range(findings):
        console.print(Text.assemble(("guessing: ", "dim"), guessed))
    for violation in violations(findings):
        whose = f"{VIOLATED}, {title(violation.found)}: "
        console.print(Text.assemble((whose, "bold red"), refutation(violation).sentence))
    for whose, sentence in (*reaches(findings), *corrections(findings)):
        console.print(Text.assemble((f"{whose}: ", "dim"), sentence))
    for flag, sentences in meanings(findings).items():
        if flag != VIOLATED:
            console.print(_meaning(flag, sentences, len(findings)))
    for attacks, reason, titles in skips(findings):
        where = "" if len(titles) == len(findings) else f" ({len(titles)} of {len(findings)} runs)"
        console.print(Text.assemble((f"skipped {', '.join(attacks)}: ", "dim"), reason + where))


def _meaning(flag: str, sentences: Mapping[str, Sequence[str]], runs: int) -> Text:
    """A flag in words; where it says something else of each run, what it says of the first."""
    (sentence, titles), *others = sentences.items()
    where = f" ({titles[0]})" if others else ""
    if not others and len(titles) == runs > 1:
        where = " (all runs)"
    more = f" The report tells the same of {len(others)} more." if others else ""
    return Text.assemble((f"{flag}{where}: ", "yellow"), sentence + more)


def lines(findings: Sequence[Findings]) -> list[Line]:
    """A line a run; that of a fleet with canaries stands under that of the same defense without.

    Flags that all runs have stand on no line.
    """
    false = {violation.found.run for violation in violations(findings)}
    flagged = [[flag.name for flag in flags(found, findings)] for found in ordered(findings)]
    shared = set[str].intersection(*map(set, flagged)) if len(flagged) > 1 else set()
    told: list[Line] = []
    above: tuple[str, str, int] | None = None
    for found, own in zip(ordered(findings), flagged, strict=True):
        first, *others = cells(found, "\n".join(flag for flag in dict.fromkeys(own) if flag not in shared))
        place = line_name(found), setting(found), found.seed
        if has_canaries(found):
            first = ("" if place == above else f"{first}\n") + f"  {found.canary} canaries"
        opens = above is not None and above[0] != place[0]
        above = place
        kind = "violated" if found.run in false else "undefended" if is_undefended(found) else ""
        told.append(Line(kind, (first, *others), opens))
    return told


def cells(found: Findings, flagged: str) -> tuple[str, ...]:
    """One run's values by `headings`."""
    coarse, fine = (strongest_row(found, tpr_at(fpr)) for fpr in FPRS)
    auc = strongest_row(found, AUC)
    return (
        brief(found),
        NOTHING if found.epsilon is None else epsilon_text(found.epsilon),
        bound_text(found, "one_run"),
        found.utility.text(found.get(found.utility.metric)),
        percent(found.find(CALIBRATION)),
        attack_text(found, found.strongest) if found.attacks else "all skipped",
        NOTHING if auc is None or auc.value is None else f"{auc.value:.3f}",
        percent(coarse, interval=True),
        percent(fine),
        flagged,
    )


def skips(findings: Sequence[Findings]) -> list[Skip]:
    """Skipped attacks, each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for found in ordered(findings):
        for attack, reason in found.skipped.items():
            where.setdefault((attack, reason), []).append(title(found))
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (attack, reason), titles in where.items():
        together.setdefault((reason, tuple(titles)), []).append(attack)
    return [Skip(tuple(attacks), reason, titles) for (reason, titles), attacks in together.items()]


def reaches(findings: Sequence[Findings]) -> list[tuple[str, str]]:
    """For each claim that was tested with canaries its run, and which claims that can refute at all."""
    tested = [found for found in ordered(findings) if is_tested(found) and found.audit and has_canaries(found)]
    level = level_of(findings)
    return [(title(found), Reach.measured(found).sentence(level)) for found in tested]


def corrections(findings: Sequence[Findings]) -> list[tuple[str, str]]:
    """For each run not audited in one way alone, by a share of guesses fixed before training: what is made of that."""
    sentences = []
    for found in filter(lambda found: found.audit, ordered(findings)):
        ways = ways_of(found)
        if ways > 1:
            level = f"each bound on ε is one at p = {LEVEL}/{ways}, not {LEVEL}"
            sentences.append((title(found), f"{ways} ways of auditing were tried, so that {level}"))
        if is_tested(found) and "guesses" not in found.config:
            sentences.append((title(found), UNRECORDED))
    return sentences


def attack_text(found: Findings, attack: str) -> str:
    """An attack's name, with what must happen first if it needs weights that a guard keeps back."""
    return f"{attack}\n{IF_LEAKED}" if if_leaked(found, found.get(AUC, attack=attack)) else attack


def if_leaked(found: Findings, row: Row) -> bool:
    """Test for a number about weights that are not released: there is a guard for answers only."""
    return found.guard != "none" and row.access == "white_box"


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
