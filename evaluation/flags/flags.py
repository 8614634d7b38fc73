"""Flags: reasons not to believe a result, or not too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from palisade.evaluation.claims import Violation, violations
from palisade.evaluation.curves import ordered
from palisade.evaluation.flags.adaptive_canaries import unadapted
from palisade.evaluation.flags.dominance import dominated
from palisade.evaluation.flags.duplicates import duplicated
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.flags.linear_baseline import below_linear
from palisade.evaluation.flags.luck import explained
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.flags.ties import tied
from palisade.evaluation.flags.unlike_models import unlike
from palisade.evaluation.result import AUC, FPRS, Result, tpr_at
from palisade.evaluation.titles import title

VIOLATED = "CLAIM VIOLATED"
FEW = 5
"""Expected false positives below which a threshold rests on a handful of records."""
VACUOUS = 10
"""Above this ε, TPR at 1 % FPR may be anything: the proof excludes no attack worth the name."""

FITTED = 0.5
"""Share of canaries that must have been learned: one that was not tells nothing about memorization."""


def flags(result: Result, together: Sequence[Result]) -> list[Flag]:
    """All flags of a run, given all runs that are judged together, itself among them."""
    refuted = [refutation(violation) for violation in violations(together) if violation.result.run == result.run]
    own = [flag for check in OF_A_RUN for flag in check(result)]
    return refuted + own + [flag for check in AMONG_RUNS for flag in check(result, together)]


def meanings(results: Sequence[Result]) -> dict[str, dict[str, list[str]]]:
    """For each flag its sentences, each with the titles of the runs it is about; what must stop a release first."""
    told: dict[str, dict[str, list[str]]] = {}
    for result in ordered(results):
        for flag in flags(result, results):
            told.setdefault(flag.name, {}).setdefault(flag.sentence, []).append(title(result))
    return dict(sorted(told.items(), key=lambda meaning: meaning[0] != VIOLATED))


def refutation(violation: Violation) -> Flag:
    """The flag of a run whose claim is refuted."""
    result, audit = violation.result, violation.result.audit
    return Flag(
        VIOLATED,
        f"ε is above {violation.bound:.2f}, not {result.epsilon:.4g} as claimed: so many"
        f" of {audit['guesses']} guesses about who was in the training set of model 0 are right as a true claim allows"
        f" with a probability of at most {violation.level:.2g}. Something in noise, clipping, sampling or accounting is"
        " wrong: do not release this model.",
    )


def unresolvable(result: Result) -> Iterator[Flag]:
    """Flags where one false positive is already more than the FPR."""
    for fpr in FPRS:
        unresolved = [attack for attack in result.attacks if result.get(tpr_at(fpr), attack=attack).value is None]
        if unresolved:
            which = "" if len(unresolved) == len(result.attacks) else f" for {', '.join(unresolved)}"
            yield Flag(
                f"{100 * fpr:g}% unresolved",
                f"The TPR at {100 * fpr:g} % FPR cannot be measured{which}: one false positive is already more than"
                f" that share of a model's non-members. It takes {1 / fpr:.0f} of them.",
            )


def few_false_positives(result: Result) -> Iterator[Flag]:
    """Flags where a TPR rests on few expected false positives per model."""
    for fpr in FPRS:
        tprs = [result.get(tpr_at(fpr), attack=attack) for attack in result.attacks]
        if not tprs or any(tpr.value is None for tpr in tprs):
            continue
        # Each model has its own threshold, hence the non-members of one model count.
        if fpr * min(tpr.nonmembers or 0 for tpr in tprs) / result.models < FEW:
            yield Flag(
                f"{100 * fpr:g}% coarse",
                f"The TPR at {100 * fpr:g} % FPR rests on fewer than {FEW} expected false positives per model: read its"
                f" interval, not its value. It takes {FEW / fpr:.0f} non-members.",
            )


def inverted(result: Result) -> Iterator[Flag]:
    """Flags for attacks whose AUC is below ½ beyond its interval."""
    for attack in result.attacks:
        auc = result.get(AUC, attack=attack)
        if auc.high is not None and auc.high < 0.5:
            yield Flag(
                "AUC<½",
                f"The AUC of {attack} is {auc.value:.3f}, below ½ beyond its interval: the attack ranks members below"
                " non-members. Its inverse would find them, so this is no sign of protection.",
            )


def vacuous(result: Result) -> Iterator[Flag]:
    """Flag where ε is too large to exclude attacks."""
    if result.statement.guarantee and result.epsilon is not None and result.epsilon > VACUOUS:
        yield Flag(
            "ε vacuous",
            f"ε is above {VACUOUS}: as a guarantee it excludes hardly any attack. What was measured may still be low,"
            " but no proof says that it stays so.",
        )


def unfitted(result: Result) -> Iterator[Flag]:
    """Flag where less than half of the canaries were learned by the models that were trained on them."""
    row = result.find("canaries_fitted")
    if row is not None and (row.value or 0.0) < FITTED:
        yield Flag(
            "canaries unfitted",
            f"Only {100 * (row.value or 0.0):.0f} % of the canaries are predicted as trained by most models that"
            " were trained on them. A record leaks less while it is not learned, so these canaries understate what"
            " the model can memorize: train longer, or choose another kind.",
        )


OF_A_RUN: tuple[Callable[[Result], Iterable[Flag]], ...] = (
    unresolvable,
    few_false_positives,
    explained,
    inverted,
    vacuous,
    below_linear,
    duplicated,
    unfitted,
    tied,
    unlike,
)
AMONG_RUNS: tuple[Callable[[Result, Sequence[Result]], Iterable[Flag]], ...] = (masked, dominated, unadapted)
"""With these every flag there is; a new one is a function and an entry here or above."""
