"""Leakage and utility of parts of the records: a mean over all hides a class or a group of people that is exposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palisade.evaluation.choice import chosen
from palisade.evaluation.curves import FPR
from palisade.evaluation.findings import AUC, Findings, Row, chance_at, tpr_at
from palisade.evaluation.guessing import guessing_text
from palisade.evaluation.table import NOTHING, percent
from palisade.evaluation.titles import title

MOST = 10
"""Rows of a run that are told; all stand in results.csv."""
CLASS = "class"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Findings of the strongest attack in a part of the records.

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
class Groups:
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


def groups(findings: Sequence[Findings]) -> list[Groups]:
    """The parts of the undefended run and of the best protected ones."""
    told = []
    for _, found in chosen(findings):
        names = dict.fromkeys(row.group for row in found.rows if row.group != "all")
        if names and found.attacks:
            parts = _by_leakage(found, list(names))
            shown = [_group(found, name) for name in parts[:MOST]]
            told.append(Groups(title=title(found), attack=found.strongest, shown=shown, count=len(parts)))
    return told


def _by_leakage(found: Findings, names: Sequence[str]) -> list[str]:
    """The most leaking first: by TPR, or by AUC where some are too small to resolve that."""
    values = {
        metric: {name: row.value for name in names if (row := _row(found, metric, name)) and row.value is not None}
        for metric in (tpr_at(FPR), AUC)
    }
    measured = values[tpr_at(FPR)] if len(values[tpr_at(FPR)]) == len(names) else values[AUC]
    return sorted(names, key=lambda name: measured.get(name, 0.0), reverse=True)


def _group(found: Findings, name: str) -> Group:
    auc, tpr = (_row(found, metric, name) for metric in (AUC, tpr_at(FPR)))
    interval = auc is not None and auc.low is not None and auc.high is not None
    told = NOTHING if auc is None or auc.value is None else f"{auc.value:.3f}"
    if interval and auc is not None:
        told += f" [{auc.low:.3f}–{auc.high:.3f}]"
    return Group(
        name=_words(found, name),
        tpr=percent(tpr, interval=True),
        guessing=NOTHING if tpr is None or _row(found, chance_at(FPR), name) is None else guessing_text(found, tpr),
        auc=told,
        utility=found.utility.text(found.find(found.utility.metric, group=name), interval=True),
        scored=NOTHING if auc is None or auc.members is None else f"{auc.members:,} / {auc.nonmembers:,}",
    )


def _row(found: Findings, metric: str, name: str) -> Row | None:
    return found.find(metric, attack=found.strongest, group=name)


def _words(found: Findings, name: str) -> str:
    """The group as people call it: a class by its word as well."""
    column, _, value = name.partition("=")
    words = found.dataset.get("classes", ())
    if column != CLASS or not value.isdigit() or int(value) >= len(words) or words[int(value)] == value:
        return name
    return f"{name} ({words[int(value)]})"
