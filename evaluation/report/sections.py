"""Sections of the report: claims, canaries, groups, single records, costs of protection and every attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from palisade.evaluation.claims import is_refutable, ways_of
from palisade.evaluation.comparison import Comparison, ordered
from palisade.evaluation.format import NO_NUMBER, bound_text, decimal, number, percent
from palisade.evaluation.labels import epsilon_cell, guessing_text, label
from palisade.evaluation.measuring.baselines import of_base
from palisade.evaluation.measuring.exposure import PREFIX_COLUMN, Exposure
from palisade.evaluation.report.page import Entry
from palisade.evaluation.report.scope import INTERNAL_SCOPE
from palisade.evaluation.result import (
    AUC,
    FPR,
    MEMBER_GROUP,
    NONMEMBER_GROUP,
    REPORTED_FPRS,
    Result,
    Row,
    chance_at,
    most_powerful,
    tpr_at,
)
from palisade.evaluation.table import attack_text, tpr_cell, trials_of
from palisade.evaluation.utility import CALIBRATION_METRIC, DOCUMENT_MEASURES, TEST_ACCURACY, Utility

MOST_SHOWN = 10
"""Rows of a run that the page shows; all stand in results.csv."""
CLASS_COLUMN = "class"
PREFIX_HEADING = "prompt that suffices (tokens)"
EPSILON_BOUNDS = {
    "one_run": (
        "one run",
        "assumes only that each record was in or out by the toss of a coin; the one bound that can refute a claim"
        " (Steinke, Nasr & Jagielski 2023)",
    ),
    "one_run_fdp": (
        "one run, f-DP, if the mechanism is Gaussian",
        "assumes that the mechanism is a Gaussian one or leaks like it (Mahloujifar, Melis & Chaudhuri 2024)",
    ),
    "gdp": (
        "GDP, if the mechanism is Gaussian",
        "assumes a Gaussian-shaped mechanism, and that the records of one model are independent trials, which they are"
        " not",
    ),
    "clopper_pearson": (
        "Clopper–Pearson",
        "assumes nothing about the mechanism, but that the records of one model are independent trials: indicative",
    ),
}
"""Lower bounds on ε in the order in which they are shown: in words, with what each assumes."""
ATTACK_HEADINGS = (
    "attack", "needs", "queries declared / made", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR", "members / non-members",
)  # fmt: skip
Lines = list[tuple[str, list[tuple[str, ...]]]]
"""Label of each run with its attacks by `ATTACK_HEADINGS`."""


def groups(comparison: Comparison) -> list[Entry]:
    """Parts of the records of highlighted runs, those that leak most first: of each run `title`, the `attack` that was
    looked at, the measure of `utility`, the first parts (`shown`) and their `count`; of a part its `name`, such as
    `class 3 (income >50K)`, what is found (`tpr`, `auc`), what `guessing` finds, `utility` and the records `scored`,
    summed over the models."""
    entries = []
    for _, result, _ in comparison.highlights:
        names = dict.fromkeys(
            row.group for row in result.rows if row.group not in ("all", MEMBER_GROUP, NONMEMBER_GROUP)
        )
        if names and result.attacks:
            parts = _by_leakage(result, list(names))
            shown = [_group(result, name) for name in parts[:MOST_SHOWN]]
            words = _of_groups(result.utility).words
            entries.append(
                {
                    "title": label(result),
                    "attack": result.strongest,
                    "utility": words,
                    "shown": shown,
                    "count": len(parts),
                }
            )
    return entries


def _by_leakage(result: Result, names: Sequence[str]) -> list[str]:
    """The most leaking first: by TPR, or by AUC where some are too small to resolve that."""
    values = {
        metric: {name: row.value for name in names if (row := _row(result, metric, name)) and row.value is not None}
        for metric in (tpr_at(FPR), AUC)
    }
    measured = values[tpr_at(FPR)] if len(values[tpr_at(FPR)]) == len(names) else values[AUC]
    return sorted(names, key=lambda name: measured.get(name, 0.0), reverse=True)


def _group(result: Result, name: str) -> Entry:
    auc, tpr = (_row(result, metric, name) for metric in (AUC, tpr_at(FPR)))
    measure = _of_groups(result.utility)
    return {
        "name": _words(result, name),
        "tpr": percent(tpr, interval=True),
        "guessing": NO_NUMBER
        if tpr is None or _row(result, chance_at(FPR), name) is None
        else guessing_text(result, tpr),
        "auc": number(auc, interval=True),
        "utility": measure.text(result.find(measure.metric, group=name), interval=True),
        "scored": NO_NUMBER if auc is None or auc.members is None else f"{auc.members:,} / {auc.nonmembers:,}",
    }


def _of_groups(measure: Utility) -> Utility:
    """The measure of parts of the records: a class by itself has nothing to be balanced with."""
    return TEST_ACCURACY if measure.name == "balanced_accuracy" else measure


def _row(result: Result, metric: str, name: str) -> Row | None:
    return result.find(metric, attack=result.strongest, group=name)


def _words(result: Result, name: str) -> str:
    """The group as people call it: a class by its word as well."""
    column, _, value = name.partition("=")
    words = result.dataset.get("classes", ())
    if column != CLASS_COLUMN or not value.isdigit() or int(value) >= len(words) or words[int(value)] == value:
        return name
    return f"{name} ({words[int(value)]})"


def evidence(comparison: Comparison, scope: str = INTERNAL_SCOPE) -> list[Entry]:
    """Lower bounds on ε by guesses, beside the claim, of every run that states a guarantee and was audited.

    The number of right guesses is in the internal report only.
    """
    return [
        {
            "title": label(result),
            "violated": result.run in comparison.refuted,
            "refutable": is_refutable(result, comparison.level),
            "claimed": epsilon_cell(result),
            "bounds": [
                (words, bound_text(comparison.audit(result), method)) for method, (words, _) in EPSILON_BOUNDS.items()
            ],
            "correct": result.audit["correct"] if scope == INTERNAL_SCOPE else None,
            "ways": ways_of(result),
            **{name: result.audit[name] for name in ("attack", "canaries", "guesses")},
        }
        for result in comparison.results
        if result.statement.guarantee and result.audit
    ]


def compared(results: Sequence[Result]) -> list[Entry]:
    """Leakage of all records and of the strongest canaries, for every defense that was tried on canaries."""
    fleets: dict[tuple[str, int], list[Result]] = {}
    for result in ordered(results):
        fleets.setdefault((label(result, short=True), result.seed), []).append(result)
    entries = []
    for (defense, _), runs in fleets.items():
        canaries = [result for result in runs if result.has_canaries]
        if not canaries:
            continue
        population = next((result for result in runs if not result.has_canaries), None)
        powers = {i: (_value(result, tpr_at(FPR)), _value(result, AUC)) for i, result in enumerate(canaries)}
        strongest = canaries[most_powerful(powers)]
        entries.append(
            {
                "defense": defense,
                "population": NO_NUMBER
                if population is None
                else percent(population.strongest_row(tpr_at(FPR)), interval=True),
                "population_auc": NO_NUMBER if population is None else _auc(population),
                "kind": strongest.canary,
                "canaries": percent(strongest.strongest_row(tpr_at(FPR)), interval=True),
                "canaries_auc": _auc(strongest),
                "fitted": percent(next((row for row in strongest.rows if row.metric == "canaries_fitted"), None)),
            }
        )
    return entries


def exposed(comparison: Comparison) -> list[Entry]:
    """The records of highlighted runs that are found most often: index, class, how often, and the interval.

    Of documents the tokens of the prompt after which they come out stand in the place of a class (`mark`), or nothing
    where none comes out.
    """
    entries = []
    for _, result, _ in comparison.highlights:
        if not result.exposed:
            continue
        exposure = Exposure.from_json(result.exposed)
        trained = exposure.models > 0
        prefixes = result.exposed.get(PREFIX_COLUMN)
        marks = exposure.label if prefixes is None else [NO_NUMBER if each is None else each for each in prefixes]
        first = [i for i in exposure.order[:MOST_SHOWN] if trained[i]]
        marked = prefixes is None or any(prefixes[i] is not None for i in first)
        most = [
            (
                str(exposure.record[i]), *([str(marks[i])] if marked else []),
                f"{exposure.hits[i]} of {exposure.models[i]}",
                f"{100 * exposure.low[i]:.0f}–{100 * exposure.high[i]:.0f} %",
            )
            for i in first
        ]  # fmt: skip
        entries.append(
            {
                "title": label(result),
                "attack": result.strongest,
                "mostly_found": exposure.mostly_exposed,
                "records": int(trained.sum()),
                **({} if prefixes is None else {"mark": PREFIX_HEADING if marked else ""}),
                "most": most,
            }
        )
    return entries


def pareto(comparison: Comparison) -> list[str]:
    """The runs that no other one beats in utility and leakage at once, leakage rising."""
    return [label(point.result) for point in comparison.frontier]


def _value(result: Result, metric: str) -> float | None:
    row = result.strongest_row(metric)
    return None if row is None else row.value


def _auc(result: Result | None) -> str:
    value = None if result is None else _value(result, AUC)
    return NO_NUMBER if value is None else f"{value:.3f}"


def costs(results: Sequence[Result]) -> list[Entry]:
    """The utility of every run, its loss against the undefended run of the same seed, and its calibration error.

    Of language models also `bits` a byte, and a line for the public model that training began with.
    """
    bare = {result.seed: result for result in results if result.is_undefended and not result.has_canaries}
    entries = [_cost(result, label(result), bare.get(result.seed), str) for result in ordered(results)]
    started = {result.network: result for result in reversed(results) if result.find(of_base(result.utility.metric))}
    bases = [_cost(result, _base_title(network, started), None, of_base) for network, result in started.items()]
    return [*bases, *entries]


def _base_title(network: str, started: Collection[str]) -> str:
    return "the public base, before training" + (f" ({network})" if len(started) > 1 else "")


def _cost(result: Result, title: str, bare: Result | None, named: Callable[[str], str]) -> Entry:
    """A line of the costs.

    Args:
        result: whose rows are read.
        title: of the line.
        bare: the undefended run.
        named: gives the name under which a metric stands.
    """
    bits = result.find(named(DOCUMENT_MEASURES["bits_per_byte"].metric))
    return {
        "title": title,
        "utility": result.utility.text(result.find(named(result.utility.metric)), interval=True),
        **({} if bits is None else {"bits": DOCUMENT_MEASURES["bits_per_byte"].text(bits, interval=True)}),
        "loss": _loss(result, bare),
        "calibration": percent(result.find(CALIBRATION_METRIC)),
    }


def tuned(results: Sequence[Result]) -> list[Entry]:
    """The trials of every run that was tuned: its `title`, the choice in a `sentence`, `columns` and `rows`."""
    runs = {result.folder: result for result in reversed(ordered(results)) if result.tuning is not None}
    entries = []
    for result in reversed(runs.values()):
        assert result.tuning is not None
        table = trials_of(result.tuning)
        entries.append(
            {
                "title": label(result, short=True),
                "sentence": result.tuning.sentence,
                "columns": list(table.columns),
                "rows": [list(row) for row in table.lines],
            }
        )
    return entries


def _loss(result: Result, bare: Result | None) -> str:
    """The difference, with an interval as if both were measured on other records, which makes it wide at worst."""
    if bare is None or bare is result:
        return NO_NUMBER
    own, its = (run.find(result.utility.metric) for run in (result, bare))
    if own is None or its is None or own.value is None or its.value is None:
        return NO_NUMBER
    lost = result.utility.worth(its.value) - result.utility.worth(own.value)
    factor, unit = (100, " points") if result.utility.is_rate else (1, "")
    digits = result.utility.decimals(own.value)
    difference = decimal(factor * lost, digits)
    if (own_half := _half(own)) is not None and (its_half := _half(its)) is not None:
        half = math.hypot(own_half, its_half)
        difference += f" [{decimal(factor * (lost - half), digits)} to {decimal(factor * (lost + half), digits)}]"
    return f"{difference}{unit}".replace("-", "−")


def _half(row: Row) -> float | None:
    return None if row.low is None or row.high is None else (row.high - row.low) / 2


def attack_tables(comparison: Comparison) -> tuple[list[str], Lines, Lines]:
    """Headings, the attacks on the runs that the verdict is about, and those on all others, to be looked up; a column
    in which nothing stands is left out."""
    first = [result.run for _, result, _ in comparison.highlights]
    numbers = {result.run: _numbers(result) for result in comparison.results if result.attacks}
    columns = zip(*(line for lines in numbers.values() for line in lines), strict=True)
    shown = [name for name, cells in zip(ATTACK_HEADINGS, columns, strict=False) if {*cells} != {NO_NUMBER}]
    titles = {result.run: label(result) for result in comparison.results}

    def tables(runs: Iterable[str]) -> Lines:
        return [(titles[run], [_only(shown, line) for line in numbers[run]]) for run in runs if run in numbers]

    return shown, tables(first), tables(run for run in numbers if run not in first)


def _only(shown: Sequence[str], line: Sequence[str]) -> tuple[str, ...]:
    return tuple(cell for name, cell in zip(ATTACK_HEADINGS, line, strict=True) if name in shown)


def _numbers(result: Result) -> list[tuple[str, ...]]:
    rows = []
    for attack in result.attacks:
        auc = result.get(AUC, attack=attack)
        interval = number(auc, interval=True)
        scored = NO_NUMBER if auc.members is None else f"{auc.members:,} / {auc.nonmembers:,}"
        rates = [tpr_cell(result, attack, fpr) for fpr in REPORTED_FPRS]
        rows.append((attack_text(result, attack), *_needs(result, attack), interval, *rates, scored))
    return rows


def _needs(result: Result, attack: str) -> tuple[str, str]:
    """Needs of an attack, and the queries a record that it declares and makes."""
    if (needs := result.needs.get(attack)) is None:
        return NO_NUMBER, NO_NUMBER
    declared = "any" if needs["declared"] is None else needs["declared"]
    text = needs["text"]
    if "vocabulary" in result.dataset:
        text = text.replace("true label", "the text").replace("probabilities, a probability", "a probability")
    return text, f"{declared} / {needs['measured']:,.4g}"
