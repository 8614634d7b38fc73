"""When a result should not be believed, or not be believed too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from evaluation.claims import Violation
from evaluation.findings import AUC, FPRS, Findings, Row, tpr_at

VIOLATED = "CLAIM VIOLATED"
FEW = 5
"""Expected false positives below which a threshold rests on a handful of records."""
VACUOUS = 10
"""Above this ε, TPR at 1 % FPR may be anything: the proof excludes no attack worth the name."""

FITTED = 0.5
"""Share of canaries that must have been learned: one that was not tells nothing about memorization."""
TIED = 0.05
"""Share of non-members that may stand at the threshold itself: they cannot be split."""


@dataclass(frozen=True)
class Flag:
    """A warning about one run.

    Args:
        name: for the table.
        sentence: the same in plain words, for the report.
    """

    name: str
    sentence: str


def flags(found: Findings, violations: Sequence[Violation]) -> list[Flag]:
    """All flags of a run, given the violations among all runs that are judged together."""
    violated = [_violated(violation) for violation in violations if violation.found.run == found.run]
    return violated + [flag for check in CHECKS for flag in check(found)]


def _violated(violation: Violation) -> Flag:
    found, audit = violation.found, violation.found.audit
    return Flag(
        VIOLATED,
        f"ε is above {violation.bound:.2f}, not {found.epsilon:.4g} as claimed: {audit['correct']} of"
        f" {audit['guesses']} guesses about who was in the training set of model 0 are right, which a true claim allows"
        f" with a probability of at most {violation.level:.2g}. Something in noise, clipping, sampling or accounting is"
        " wrong: do not release this model.",
    )


def unresolvable(found: Findings) -> Iterator[Flag]:
    for fpr in FPRS:
        unresolved = [attack for attack in found.attacks if found.get(tpr_at(fpr), attack=attack).value is None]
        if unresolved:
            which = "" if len(unresolved) == len(found.attacks) else f" for {', '.join(unresolved)}"
            yield Flag(
                f"{100 * fpr:g}% unresolved",
                f"The TPR at {100 * fpr:g} % FPR cannot be measured{which}: one false positive is already more than"
                f" that share of a model's non-members. It takes {1 / fpr:.0f} of them.",
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


def masked(found: Findings) -> Iterator[Flag]:
    by_labels, by_scores = (_aucs(found, access) for access in ("label_only", "black_box"))
    if not by_labels or not by_scores:
        return
    labels, scores = (max(rows, key=lambda row: row.value or 0.0) for rows in (by_labels, by_scores))
    if labels.low is not None and labels.low > max(row.high or 1.0 for row in by_scores):
        yield Flag(
            "masked, not protected",
            f"{labels.attack}, which sees predicted labels alone, has an AUC of {labels.value:.3f}; the best attack on"
            f" scores, {scores.attack}, reaches {scores.value:.3f}. The defense hides the scores while the models still"
            " leak: judge it by the label-only attack.",
        )


def unfitted(found: Findings) -> Iterator[Flag]:
    for row in found.rows:
        if (row.metric, row.model, row.group) == ("canaries_fitted", "all", "all") and (row.value or 0.0) < FITTED:
            yield Flag(
                "canaries unfitted",
                f"Only {100 * (row.value or 0.0):.0f} % of the canaries are predicted as trained by most models that"
                " were trained on them. A record leaks less while it is not learned, so these canaries understate what"
                " the model can memorize: train longer, or choose another kind.",
            )


def tied(found: Findings) -> Iterator[Flag]:
    for row in found.rows:
        if (row.metric, row.model, row.group) != ("tied@1%fpr", "all", "all") or (row.value or 0.0) <= TIED:
            continue
        if row.attack == found.strongest:
            yield Flag(
                "many ties at 1%",
                f"{100 * (row.value or 0.0):.0f} % of the non-members have the very score at which {row.attack} stops"
                " at 1 % FPR. Ties cannot be split, so the TPR is that of a smaller FPR: read the AUC beside it.",
            )


def _aucs(found: Findings, access: str) -> list[Row]:
    rows = [found.get(AUC, attack=attack) for attack in found.attacks]
    return [row for row in rows if row.access == access and row.value is not None]


CHECKS: tuple[Callable[[Findings], Iterable[Flag]], ...] = (
    unresolvable,
    few_false_positives,
    inverted,
    vacuous,
    masked,
    unfitted,
    tied,
)
"""Every flag there is; a new one is a function and an entry here."""
