"""Every attack on every run, for the report: what it needs, what it finds, and of how many records."""

from __future__ import annotations

from collections.abc import Sequence

from palisade.evaluation.choice import chosen
from palisade.evaluation.curves import ordered
from palisade.evaluation.result import AUC, FPRS, Result, tpr_at
from palisade.evaluation.table import NOTHING, attack_text, percent
from palisade.evaluation.titles import title

NUMBERS = (
    "attack", "needs", "queries declared / made", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR", "members / non-members",
)  # fmt: skip

Lines = list[tuple[str, list[tuple[str, ...]]]]
"""For each run its title, and its attacks by `NUMBERS`."""


def attack_tables(results: Sequence[Result]) -> tuple[Lines, Lines]:
    """The attacks on the runs that the verdict is about, and those on all others, to be looked up."""
    first = [result.run for _, result in chosen(results)]
    runs = [result for result in ordered(results) if result.attacks]
    told = {result.run: (title(result), _numbers(result)) for result in runs}
    return [told[run] for run in first if run in told], [told[run] for run in told if run not in first]


def _numbers(result: Result) -> list[tuple[str, ...]]:
    told = []
    for attack in result.attacks:
        auc, *tprs = (result.get(metric, attack=attack) for metric in (AUC, *map(tpr_at, FPRS)))
        interval = _plain(auc.value, auc.low, auc.high)
        scored = NOTHING if auc.members is None else f"{auc.members:,} / {auc.nonmembers:,}"
        rates = [percent(tpr, interval=True) for tpr in tprs]
        told.append((attack_text(result, attack), *_needs(result, attack), interval, *rates, scored))
    return told


def _needs(result: Result, attack: str) -> tuple[str, str]:
    """Needs of an attack, and the queries a record that it declares and makes."""
    if (needs := result.needs.get(attack)) is None:
        return NOTHING, NOTHING
    declared = "any" if needs["declared"] is None else needs["declared"]
    return needs["text"], f"{declared} / {needs['measured']:,.4g}"


def _plain(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}–{high:.3f}]"
