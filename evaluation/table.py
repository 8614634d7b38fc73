"""The table that ends an evaluation in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from rich.table import Table
from rich.text import Text

from palisade.evaluation.claims import FAMILYWISE_ALPHA, is_tested, level_of, ways_of
from palisade.evaluation.comparison import Comparison, ordered
from palisade.evaluation.flags import VIOLATED_FLAG, flags, meanings, refutation
from palisade.evaluation.format import NO_NUMBER, bound_text, console_for, empty_table, number, percent, show
from palisade.evaluation.labels import defense_cell, epsilon_cell, guessing_range, label, series_label
from palisade.evaluation.measuring.baselines import of_base
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.plan import Reach
from palisade.evaluation.result import (
    AUC,
    BLIND_BASELINE,
    BY_CHANCE,
    DIFFERENCE_ALPHA,
    FPR,
    LARGEST_CLASS,
    MEMBER_GROUP,
    NONMEMBER_GROUP,
    REPORTED_FPRS,
    Result,
    Row,
    tpr_at,
)
from palisade.evaluation.utility import CALIBRATION_METRIC, Utility
from palisade.targets.config import DEFAULT_GUESSED_SHARE
from palisade.targets.trial_outcomes import OUTCOMES_FILE, TuningOutcome

UNRECORDED_SHARE = (
    f"no share of guesses was recorded before training: {DEFAULT_GUESSED_SHARE} counts as the first, and ways of"
    " auditing that were tried before evaluations recorded them are not corrected for"
)
IF_LEAKED = "if the weights leak"
"""Notice on attacks that hold the weights where a guard keeps these back."""
ONLY_TIES = "only ties"
"""Text in place of a TPR at an FPR that the threshold jumps over, since many records share one score."""
RATE_HEADINGS = ("AUC", *(f"TPR at {100 * fpr:g}% FPR" for fpr in REPORTED_FPRS))
TEXT_HEADINGS = ("defense", "attack", "flags")
"""Headings of columns that hold no numbers: cells of these, and no others, may take several lines."""
TRIAL_HEADINGS = ("settings", "validation accuracy", "models", "trial")
MOST_TRIALS = 10
"""Trials that the terminal shows."""
LINE_STYLES = {"violated": "bold red", "undefended": "bold", "": None}


def headings(utility: Utility) -> tuple[str, ...]:
    """Headings of a table of runs."""
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


class TextTable(NamedTuple):
    """A table as text, for the terminal and for a page.

    Args:
        columns: headings; the first names the line.
        numeric: those of numbers.
        lines: the cells.
    """

    columns: Sequence[str]
    numeric: Sequence[str]
    lines: Sequence[Sequence[str]]


class Skip(NamedTuple):
    """Attacks that were skipped for one reason on the same runs."""

    attacks: tuple[str, ...]
    reason: str
    titles: tuple[str, ...]


def show_results(comparison: Comparison, sentences: Sequence[str] = (), file: TextIO | None = None) -> None:
    """Prints each run with its strongest attack, or every attack on one model; which claims the canaries can refute,
    what the flags mean and what was skipped; plain without a terminal.

    Args:
        comparison: of runs, or of one model that exists already.
        sentences: that stand below the table.
        file: where to; None: standard output.
    """
    console, results = console_for(file), comparison.results
    alone = results[0].sides is not None
    show(console, drawn(attacks_on_model(results[0])) if alone else _table_of_runs(comparison), *sentences)
    if right := accuracy_text(results):
        console.print(right)
    if public := results[0].find(of_base(results[0].utility.metric)):
        utility = results[0].utility
        console.print(Text.assemble((f"{utility.words}: ", "dim"), f"the public base has {utility.text(public)}"))
    if guessed := guessing_range(results):
        console.print(Text.assemble(("guessing: ", "dim"), guessed))
    for violation in comparison.refuted.values():
        whose = f"{VIOLATED_FLAG}, {label(violation.result)}: "
        console.print(Text.assemble((whose, "bold red"), refutation(violation).sentence))
    for whose, sentence in (*reaches(comparison), *corrections(results)):
        console.print(Text.assemble((f"{whose}: ", "dim"), sentence))
    for flag, meaning in meanings(comparison).items():
        if flag != VIOLATED_FLAG:
            console.print(_meaning(flag, meaning, len(results)))
    for attacks, reason, titles in skips(results):
        where = "" if len(titles) == len(results) else f" ({len(titles)} of {len(results)} runs)"
        console.print(Text.assemble((f"skipped {', '.join(attacks)}: ", "dim"), reason + where))


def foretells_tokens(result: Result) -> bool:
    """True of one language model, whose accuracy is about tokens, which have no largest class."""
    rows = (result.find(LARGEST_CLASS, group=group) for group in (MEMBER_GROUP, NONMEMBER_GROUP))
    return result.sides is not None and all(row is not None and row.value is None for row in rows)


def accuracy_text(results: Sequence[Result]) -> Text | None:
    """Accuracy of one model on members and on others; of runs what it is to be compared with, the largest class; None
    where that was not measured."""
    first, heading = results[0], ("accuracy: ", "dim")
    if first.sides is None:
        share = first.find(LARGEST_CLASS)
        words = f"the largest class has {percent(share)} of the test records"
        return None if share is None else Text.assemble(heading, words)
    inside, outside = (percent(row, interval=True) for row in first.accuracies)
    if foretells_tokens(first):
        known = any(row is not None and row.value is not None for row in first.accuracies)
        words = f"{inside} of those of members, {outside} of those of non-members"
        return Text.assemble(("tokens foretold: ", "dim"), words) if known else None
    largest = [percent(first.find(LARGEST_CLASS, group=group)) for group in (MEMBER_GROUP, NONMEMBER_GROUP)]
    return Text.assemble(
        heading,
        f"{inside} on members, {outside} on non-members; the largest class has {largest[0]} and {largest[1]} of them",
    )


def show_trials(tuning: TuningOutcome, file: TextIO | None = None) -> None:
    """Prints the trials that a run was tuned by, the best ones of many."""
    show(console_for(file), drawn(trials_of(tuning), MOST_TRIALS))
    if len(tuning.trials) > MOST_TRIALS:
        print(f"{len(tuning.trials) - MOST_TRIALS} more in {OUTCOMES_FILE} of the run's folder", file=file)


def trials_of(tuning: TuningOutcome) -> TextTable:
    """The trials that a run was tuned by, the chosen one first."""
    lines = [
        (
            trial.text,
            NO_NUMBER if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %",
            str(trial.models),
            f"{trial.status}: {trial.reason}" if trial.reason else trial.status,
        )
        for trial in tuning.trials
    ]
    return TextTable(TRIAL_HEADINGS, TRIAL_HEADINGS[1:3], lines)


def drawn(content: TextTable, lines: int = 20) -> Table:
    """A table for the terminal, with so many lines at most."""
    table = empty_table()
    for name in content.columns:
        numeric = name in content.numeric
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for line in content.lines[:lines]:
        table.add_row(*line)
    return table


def _table_of_runs(comparison: Comparison) -> Table:
    table = empty_table()
    rows, named = lines(comparison), headings(comparison.results[0].utility)
    columns = [(name, values) for name, *values in zip(named, *(line.cells for line in rows), strict=True)]
    # A column without a number has nothing to say, and others need its place.
    shown = [name for name, values in columns if set(values) != {NO_NUMBER}]
    for name in shown:
        words = name in TEXT_HEADINGS
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for line in rows:
        if line.opens:
            table.add_section()
        cells = [cell for name, cell in zip(named, line.cells, strict=True) if name in shown]
        table.add_row(*cells, style=LINE_STYLES[line.kind])
    return table


def attacks_on_model(result: Result) -> TextTable:
    """Every attack on one model that exists already, and the baseline that never asks it."""
    sides = result.sides
    assert sides is not None
    lines = [(attack, result.needs[attack]["text"], *rates(result, attack)) for attack in result.attacks]
    blind = "records and true label" if sides.features else "true label"
    p = result.value(BY_CHANCE, 1.0, attack=BLIND_BASELINE)
    shows = "sides differ" if p <= DIFFERENCE_ALPHA else "no difference shows"
    lines.append(("blind baseline", f"{blind}, never the model; {shows} (p = {p:.2g})", *rates(result, BLIND_BASELINE)))
    headings = RATE_HEADINGS
    if sides.shadow_records:
        learned = [result.find(AT_SHADOWS, attack=attack) for attack in (*result.attacks, BLIND_BASELINE)]
        lines = [(*line, percent(row, interval=True)) for line, row in zip(lines, learned, strict=True)]
        headings = (*headings, "balanced accuracy\nby one shadow")
    return TextTable(("attack", "needs", *headings), headings, lines)


def tpr_cell(result: Result, attack: str, fpr: float, group: str = "all", *, interval: bool = True) -> str:
    """The TPR of an attack, or that its scores only tie there: the number would be that of a much smaller FPR.

    Of a fleet, in some model of which they do, a mean that lies above the FPR is shown all the same.
    """
    row = result.get(tpr_at(fpr), attack=attack, group=group)
    hidden = row.value is not None and result.ties(attack, fpr) and (result.sides is not None or row.value <= fpr)
    return ONLY_TIES if hidden else percent(row, interval=interval)


def rates(result: Result, attack: str, group: str = "all") -> tuple[str, ...]:
    """AUC and TPRs of an attack with their intervals, by `RATE_HEADINGS`."""
    tprs = (tpr_cell(result, attack, fpr, group) for fpr in REPORTED_FPRS)
    return (number(result.get(AUC, attack=attack, group=group), interval=True), *tprs)


def _meaning(flag: str, sentences: Mapping[str, Sequence[str]], runs: int) -> Text:
    """A flag in words; where it says something else of each run, what it says of the first."""
    (sentence, titles), *others = sentences.items()
    where = f" ({titles[0]})" if others else ""
    if not others and len(titles) == runs > 1:
        where = " (all runs)"
    more = f" The report tells the same of {len(others)} more." if others else ""
    return Text.assemble((f"{flag}{where}: ", "yellow"), sentence + more)


def lines(comparison: Comparison) -> list[Line]:
    """A line a run; that of a fleet with canaries stands under that of the same defense without.

    Flags that all runs have stand on no line.
    """
    flagged = [[flag.name for flag in flags(result, comparison)] for result in comparison.results]
    shared = set[str].intersection(*map(set, flagged)) if len(flagged) > 1 else set()
    rows: list[Line] = []
    above: tuple[str, str, int] | None = None
    for result, own in zip(comparison.results, flagged, strict=True):
        flagged_here = "\n".join(flag for flag in dict.fromkeys(own) if flag not in shared)
        first, *others = cells(result, flagged_here, comparison.audit(result))
        place = series_label(result), label(result, short=True), result.seed
        if result.has_canaries:
            first = ("" if place == above else f"{first}\n") + f"  {result.canary} canaries"
        opens = above is not None and above[0] != place[0]
        above = place
        kind = "violated" if result.run in comparison.refuted else "undefended" if result.is_undefended else ""
        rows.append(Line(kind, (first, *others), opens))
    return rows


def cells(result: Result, flagged: str, audit: Mapping[str, Any]) -> tuple[str, ...]:
    """One run's values by `headings`.

    Args:
        result: of the run.
        flagged: names of its flags.
        audit: its bounds on ε, by `Comparison.audit`.
    """
    coarse, fine = (
        tpr_cell(result, result.strongest, fpr, interval=fpr == FPR) if result.attacks else NO_NUMBER
        for fpr in REPORTED_FPRS
    )
    auc = result.strongest_row(AUC)
    return (
        defense_cell(result),
        epsilon_cell(result),
        bound_text(audit, "one_run"),
        result.utility.text(result.get(result.utility.metric)),
        percent(result.find(CALIBRATION_METRIC)),
        attack_text(result, result.strongest) if result.attacks else "all skipped",
        number(auc),
        coarse,
        fine,
        flagged,
    )


def skips(results: Sequence[Result]) -> list[Skip]:
    """Skipped attacks, each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for result in ordered(results):
        for attack, reason in result.skipped.items():
            where.setdefault((attack, reason), []).append(label(result))
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (attack, reason), titles in where.items():
        together.setdefault((reason, tuple(titles)), []).append(attack)
    return [Skip(tuple(attacks), reason, titles) for (reason, titles), attacks in together.items()]


def reaches(comparison: Comparison) -> list[tuple[str, str]]:
    """Reach of each claim that was tested with canaries: its run, and which claims that can refute."""
    tested = [result for result in comparison.results if is_tested(result) and result.audit and result.has_canaries]
    return [(label(result), Reach.measured(result).sentence(comparison.level)) for result in tested]


def corrections(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Corrections of runs that were audited in several ways, or with a share of guesses not fixed before training."""
    sentences = []
    claims = round(FAMILYWISE_ALPHA / level_of(results))
    if claims > 1 and any(result.audit for result in results):
        level = f"holds for each at p = {FAMILYWISE_ALPHA}/{claims}, and alone can refute one"
        sentences.append(("all claims", f"{claims} are tested together, so that the bound “one run” {level}"))
    for result in filter(lambda result: result.audit, ordered(results)):
        ways = ways_of(result)
        if ways > 1:
            level = f"each bound on ε holds at p = {FAMILYWISE_ALPHA}/{ways}, not {FAMILYWISE_ALPHA}"
            sentences.append((label(result), f"{ways} ways of auditing were tried, so that {level}"))
        if is_tested(result) and "guesses" not in result.config:
            sentences.append((label(result), UNRECORDED_SHARE))
    return sentences


def attack_text(result: Result, attack: str) -> str:
    """An attack's name, with what must happen first if it needs weights that a guard keeps back."""
    return f"{attack}\n{IF_LEAKED}" if if_leaked(result, result.get(AUC, attack=attack)) else attack


def if_leaked(result: Result, row: Row) -> bool:
    """Test for a number about weights that are not released: there is a guard for answers only."""
    return result.guard != "none" and row.access == "white_box"
