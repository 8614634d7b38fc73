"""Verdict of an evaluation, in sentences that carry their scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palisade.evaluation.chance import against_chance, auc_text
from palisade.evaluation.choice import chosen, is_resolved, passed_over, seed_text
from palisade.evaluation.claims import Violation, violations
from palisade.evaluation.curves import FPR, strongest_row
from palisade.evaluation.flags.flags import refutation
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.guessing import excludes_guessing, guessing_text
from palisade.evaluation.report.game import shadows_of
from palisade.evaluation.result import AUC, Result, tpr_at
from palisade.evaluation.table import IF_LEAKED, if_leaked, percent
from palisade.evaluation.titles import is_undefended, title


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One run in a sentence.

    Args:
        heading: which run, and why it stands here.
        refuted: whether its claim is.
        measure: what tells the leakage: members found at 1 % FPR, or AUC where that cannot be resolved.
        leakage: its value, for a large print.
        utility: its value, likewise.
        sentence: all of it with its scope.
    """

    heading: str
    refuted: bool
    measure: str
    leakage: str
    utility: str
    sentence: str


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """A verdict on each of the chosen runs."""
    violated = {violation.result.run: violation for violation in violations(results)}
    told = []
    for heading, result in chosen(results):
        resolved = is_resolved(result)
        measured = percent(strongest_row(result, tpr_at(FPR)), interval=True) if resolved else _auc(result)
        told.append(
            Verdict(
                heading=heading,
                refuted=result.run in violated,
                measure=f"members found at {100 * FPR:g} % FPR" if resolved else AUC.upper(),
                leakage=measured,
                utility=result.utility.text(result.get(result.utility.metric), interval=True),
                sentence=_refutation(result, violated) + sentence(result) + _masks(result, results),
            )
        )
    return told


def sentence(result: Result) -> str:
    """TPR at 1 % FPR of the strongest attack, or else its AUC, under which threat model, and against guessing."""
    row, where = strongest_row(result, tpr_at(FPR)), scope(result)
    told = f"{where[0].upper()}{where[1:]}: at {100 * FPR:g} % false accusations"
    if row is None:
        return f"{told} it cannot be measured what attacks find."
    if not is_resolved(result):
        row = result.get(AUC, attack=result.strongest)
        told += (
            f" it cannot be measured what attacks find. The best attack ({result.strongest}) ranks members"
            f" above non-members with an AUC of {_auc(result)}; guessing has 0.5."
        )
    else:
        told += (
            f" the best attack ({result.strongest}) finds {percent(row, interval=True)} of members;"
            f" guessing finds {guessing_text(result, row)}."
        )
    unclear = row.low is not None and not excludes_guessing(result, row)
    return told + (against_chance(result, result.strongest) if unclear else "")


def scope(result: Result) -> str:
    """The threat model of the strongest attack, such as `black-box, 15 shadow models that know the defense`."""
    row = strongest_row(result, tpr_at(FPR))
    access = row.access.replace("_", "-") if row is not None else "no attack"
    if row is not None and if_leaked(result, row):
        access += f" ({IF_LEAKED})"
    shadows = shadows_of(result)
    return f"{access}, {shadows} shadow model{'s' * (shadows != 1)} that know the defense" if shadows else access


def _refutation(result: Result, violated: Mapping[str, Violation]) -> str:
    """The sentence that comes before all else, empty if the claim stands."""
    if result.run not in violated:
        return ""
    return f"The claim of {title(result)} is refuted: {refutation(violated[result.run]).sentence} "


def _masks(result: Result, results: Sequence[Result]) -> str:
    """That the run only masks what it leaks, or that others which do were passed over for it."""
    if own := list(masked(result, results)):
        return f" Masked, not protected: {own[0].sentence}"
    others = [] if is_undefended(result) else passed_over(result, results)
    if not others:
        return ""
    listed = ", ".join(f"{title(other)}{seed_text(other, results)}" for other in others)
    return f" Passed over, since what looks like less leakage is only masked: {listed}."


def _auc(result: Result) -> str:
    return auc_text(result.get(AUC, attack=result.strongest))
