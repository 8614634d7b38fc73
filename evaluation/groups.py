"""Leakage and utility of parts of the records: a mean over all hides a class or a group of people that is exposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import NOTHING, number, percent
from palisade.evaluation.guessing import guessing_text
from palisade.evaluation.labels import title
from palisade.evaluation.result import AUC, FPR, Result, Row, chance_at, tpr_at

MOST = 10
"""Rows of a run that are told; all stand in results.csv."""
CLASS = "class"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Result of the strongest attack in a part of the records.

    Args:
        name: such as `class 3 (income >50K)` or `sex=f`.
        tpr: members found at 1 % FPR, with its interval.
        guessing: what guessing finds there, and the most that luck explains of any of these groups.
        auc: likewise.
        utility: of the test records in that part; a dash where it was not measured.
        scored: members and non-members, summed over the models.
    """

    name: str
    tpr: str
    guessing: str
    auc: str
    utility: str
    scored: str


@dataclass(frozen=True, kw_only=True)
class RunGroups:
    """The parts of a run's records, those that leak most first.

    Args:
        title: of the run.
        attack: the one that was looked at.
        shown: the first of them.
        count: how many there are.
    """

    title: str
    attack: str
    shown: Sequence[Group]
    count: int


def groups(comparison: Comparison) -> list[RunGroups]:
    """The parts of the undefended run and of the best protected ones."""
    told = []
    for _, result, _ in comparison.highlights:
        names = dict.fromkeys(row.group for row in result.rows if row.group != "all")
        if names and result.attacks:
            parts = _by_leakage(result, list(names))
            shown = [_group(result, name) for name in parts[:MOST]]
            told.append(RunGroups(title=title(result), attack=result.strongest, shown=shown, count=len(parts)))
    return told


def _by_leakage(result: Result, names: Sequence[str]) -> list[str]:
    """The most leaking first: by TPR, or by AUC where some are too small to resolve that."""
    values = {
        metric: {name: row.value for name in names if (row := _row(result, metric, name)) and row.value is not None}
        for metric in (tpr_at(FPR), AUC)
    }
    measured = values[tpr_at(FPR)] if len(values[tpr_at(FPR)]) == len(names) else values[AUC]
    return sorted(names, key=lambda name: measured.get(name, 0.0), reverse=True)


def _group(result: Result, name: str) -> Group:
    auc, tpr = (_row(result, metric, name) for metric in (AUC, tpr_at(FPR)))
    return Group(
        name=_words(result, name),
        tpr=percent(tpr, interval=True),
        guessing=NOTHING if tpr is None or _row(result, chance_at(FPR), name) is None else guessing_text(result, tpr),
        auc=number(auc, interval=True),
        utility=result.utility.text(result.find(result.utility.metric, group=name), interval=True),
        scored=NOTHING if auc is None or auc.members is None else f"{auc.members:,} / {auc.nonmembers:,}",
    )


def _row(result: Result, metric: str, name: str) -> Row | None:
    return result.find(metric, attack=result.strongest, group=name)


def _words(result: Result, name: str) -> str:
    """The group as people call it: a class by its word as well."""
    column, _, value = name.partition("=")
    words = result.dataset.get("classes", ())
    if column != CLASS or not value.isdigit() or int(value) >= len(words) or words[int(value)] == value:
        return name
    return f"{name} ({words[int(value)]})"
