"""Every attack on every run, for the report: what it needs, what it finds, and of how many records."""

from __future__ import annotations

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import NOTHING, number, percent
from palisade.evaluation.labels import title
from palisade.evaluation.result import AUC, FPRS, Result, tpr_at
from palisade.evaluation.table import attack_text

NUMBERS = (
    "attack", "needs", "queries declared / made", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR", "members / non-members",
)  # fmt: skip

Lines = list[tuple[str, list[tuple[str, ...]]]]
"""For each run its title, and its attacks by `NUMBERS`."""


def attack_tables(comparison: Comparison) -> tuple[Lines, Lines]:
    """The attacks on the runs that the verdict is about, and those on all others, to be looked up."""
    first = [result.run for _, result, _ in comparison.highlights]
    runs = [result for result in comparison.results if result.attacks]
    told = {result.run: (title(result), _numbers(result)) for result in runs}
    return [told[run] for run in first if run in told], [told[run] for run in told if run not in first]


def _numbers(result: Result) -> list[tuple[str, ...]]:
    told = []
    for attack in result.attacks:
        auc, *tprs = (result.get(metric, attack=attack) for metric in (AUC, *map(tpr_at, FPRS)))
        interval = number(auc, interval=True)
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
