"""Flags on the audit of one model: reasons not to believe it, or not too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from palisade.evaluation.audits.audited import Audited, tied
from palisade.evaluation.flags import FEW, Flag, ties_of
from palisade.evaluation.format import number, percent
from palisade.evaluation.guessing import compare_with_guessing
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.result import AUC, FPRS, TIED, tpr_at
from palisade.evaluation.statistics.chance import chance_level


def flags(result: Audited) -> list[Flag]:
    """All flags of an audit."""
    return [flag for check in CHECKS for flag in check(result)]


def other_distribution(result: Audited) -> Iterator[Flag]:
    """Members and non-members differ by themselves."""
    blind = result.get(AUC, attack="blind_baseline")
    what = "the records alone" if result.features else "the classes alone"
    if blind.low is not None and blind.low > 0.5:
        yield Flag(
            "different records",
            f"A classifier that sees {what} and never asks the model tells members from non-members with an AUC of"
            f" {number(blind, interval=True)}; ½ is guessing. The two come from different"
            " distributions, and attacks may only be seeing that: what stands here is no measure of leakage. Take"
            " non-members from the same source and time as the members, drawn at random.",
        )


def unchecked(result: Audited) -> Iterator[Flag]:
    """Flag where nobody can tell if members and non-members differ."""
    if not result.features:
        yield Flag(
            "records unknown",
            "The files hold answers only, so that nobody can check whether members and non-members come from one"
            " distribution. If they do not, what is measured is that difference. Save the records as features.",
        )


def shared_records(result: Audited) -> Iterator[Flag]:
    """A record is on both sides."""
    if result.shared:
        yield Flag(
            "shared records",
            f"{result.shared} records are among members and non-members alike: whoever is called wrong there may be"
            " right. Attacks look weaker than they are; remove these records from the non-members.",
        )


def few_nonmembers(result: Audited) -> Iterator[Flag]:
    """A low FPR rests on too few records."""
    nonmembers = int((~result.members).sum())
    for fpr in FPRS:
        if fpr * nonmembers < 1:
            yield Flag(
                f"{100 * fpr:g}% unresolved",
                f"The TPR at {100 * fpr:g} % FPR cannot be measured: one false positive is already more than that share"
                f" of {nonmembers:,} non-members. It takes {1 / fpr:.0f}.",
            )
        elif fpr * nonmembers < FEW:
            yield Flag(
                f"{100 * fpr:g}% coarse",
                f"The TPR at {100 * fpr:g} % FPR rests on fewer than {FEW} expected false positives: read its interval,"
                f" not its value. It takes {FEW / fpr:.0f} non-members.",
            )


def inverted(result: Audited) -> Iterator[Flag]:
    """Members look less like members than others do."""
    for attack in result.attacks:
        auc = result.get(AUC, attack=attack)
        if auc.high is not None and auc.high < 0.5:
            yield Flag(
                "AUC<½",
                f"The AUC of {attack} is {auc.value:.3f}, below ½ beyond its interval: members rank below non-members."
                " Its inverse would find them, so this is no sign of protection. Are the two files swapped?"
                " Or the signs of the logits?",
            )


def ties(result: Audited) -> Iterator[Flag]:
    """The strongest attack's threshold jumps over many records."""
    if result.attacks and (share := tied(result, result.strongest)) > TIED:
        yield ties_of(result.strongest, share)


def masked(result: Audited) -> Iterator[Flag]:
    """Labels alone tell more than scores do."""
    rows = [result.get(AUC, attack=attack) for attack in result.attacks]
    labels = max((row for row in rows if row.access == "label_only"), key=lambda row: row.value or 0, default=None)
    scores = max((row for row in rows if row.access == "black_box"), key=lambda row: row.value or 0, default=None)
    if labels is None or scores is None or labels.low is None or scores.high is None:
        return
    if labels.low <= max(scores.high, 0.5):
        return
    yield Flag(
        "masked, not protected",
        f"{labels.attack}, which sees predicted labels alone, has an AUC of {labels.value:.3f}; the best attack on"
        f" scores, {scores.attack}, reaches {scores.value:.3f}. The scores hide what the model still tells: judge it by"
        " the label-only attack.",
    )


CHECKS: tuple[Callable[[Audited], Iterator[Flag]], ...] = (
    other_distribution,
    unchecked,
    shared_records,
    few_nonmembers,
    inverted,
    ties,
    masked,
)


def verdict(result: Audited) -> list[str]:
    """Sentences on the strongest attack, with its scope."""
    if not result.attacks:
        return ["No attack could run; what each would need stands under “Skipped”."]
    row, auc = result.get(tpr_at(FPRS[0]), attack=result.strongest), result.get(AUC, attack=result.strongest)
    access = auc.access.replace("_", "-").capitalize()
    shadows = "without the shadow model" if result.shadow_records else "no shadow models"
    told = f"{access}, one model, {shadows}: the best attack ({result.strongest})"
    if row.value is not None and not any(ties(result)):
        found_at = percent(row, interval=True)
        chance = percent(replace(row, value=chance_level([int((~result.members).sum())], FPRS[0])))
        told += f" finds {found_at} of members at 1 % false accusations, where guessing finds {chance}, and"
    told += f" has an AUC of {number(auc, interval=True)}, where guessing has 0.5."
    if (auc.low or 0.0) <= 0.5 and (row.low or 0.0) <= FPRS[0]:
        told += compare_with_guessing(result, result.strongest)
    unrun = "that learn more from shadow models" if result.shadow_records else "with shadow models"
    told += f" Attacks {unrun} were not run and usually find more."
    sentences = [told, *by_shadow(result)]
    if result.over_persons:
        sentences.append("Brackets: 95 % intervals over persons, whose records are drawn together.")
    if any(other_distribution(result)):
        sentences.insert(0, "Members and non-members differ by themselves, so what follows is no measure of leakage.")
    return sentences


def over(result: Audited) -> str:
    """The sampling unit of the intervals: records, or persons with all of theirs."""
    return "persons" if result.over_persons else "records"


def by_shadow(result: Audited) -> Iterator[str]:
    """Balanced accuracy of the thresholds learned on a shadow model, in words."""
    learnt = [row for name in result.attacks if (row := result.find(AT_SHADOWS, attack=name)) is not None]
    if learnt:
        best = max(learnt, key=lambda row: row.value or 0.0)
        yield (
            f"At thresholds learnt on one shadow model, {best.attack} has a balanced accuracy of"
            f" {percent(best, interval=True)}, the highest of {len(learnt)} attacks; guessing has 50 %."
        )
