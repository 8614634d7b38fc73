"""When a result should not be believed, or not be believed too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from evaluation.findings import AUC, FPRS, Findings, tpr_at

FEW = 5
"""Expected false positives below which a threshold rests on a handful of records."""
VACUOUS = 10
"""Above this ε, TPR at 1 % FPR may be anything: the proof excludes no attack worth the name."""


@dataclass(frozen=True)
class Flag:
    """A warning about one run.

    Args:
        name: for the table.
        sentence: the same in plain words, for the report.
    """

    name: str
    sentence: str


def flags(found: Findings) -> list[Flag]:
    """All flags of a run."""
    return [flag for check in CHECKS for flag in check(found)]


def unresolvable(found: Findings) -> Iterator[Flag]:
    for fpr in FPRS:
        if any(found.get(tpr_at(fpr), attack=attack).value is None for attack in found.attacks):
            yield Flag(
                f"{100 * fpr:g}% unresolved",
                f"The TPR at {100 * fpr:g} % FPR cannot be measured: a single false positive is already a larger share"
                f" of a model's non-members. It takes {1 / fpr:.0f} of them.",
            )


def few_false_positives(found: Findings) -> Iterator[Flag]:
    for fpr in FPRS:
        tprs = [found.get(tpr_at(fpr), attack=attack) for attack in found.attacks]
        if not tprs or any(tpr.value is None for tpr in tprs):
            continue
        # Each model has its own threshold, hence the non-members of one model count.
        if fpr * min(tpr.nonmembers or 0 for tpr in tprs) / found.models < FEW:
            yield Flag(
                f"{100 * fpr:g}% coarse",
                f"The TPR at {100 * fpr:g} % FPR rests on fewer than {FEW} expected false positives per model: read its"
                f" interval, not its value. It takes {FEW / fpr:.0f} non-members.",
            )


def inverted(found: Findings) -> Iterator[Flag]:
    for attack in found.attacks:
        auc = found.get(AUC, attack=attack)
        if auc.high is not None and auc.high < 0.5:
            yield Flag(
                "AUC<½",
                f"The AUC of {attack} is {auc.value:.3f}, below ½ beyond its interval: the attack ranks members below"
                " non-members. Its inverse would find them, so this is no sign of protection.",
            )


def vacuous(found: Findings) -> Iterator[Flag]:
    if found.statement.guarantee and found.epsilon is not None and found.epsilon > VACUOUS:
        yield Flag(
            "ε vacuous",
            f"ε is above {VACUOUS}: as a guarantee it excludes hardly any attack. What was measured may still be low,"
            " but no proof says that it stays so.",
        )


CHECKS: tuple[Callable[[Findings], Iterable[Flag]], ...] = (unresolvable, few_false_positives, inverted, vacuous)
"""Every flag there is; a new one is a function and an entry here."""
