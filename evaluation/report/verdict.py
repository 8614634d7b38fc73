"""Verdict of an evaluation, in sentences that carry their scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palisade.evaluation.chance import against_chance, auc_text
from palisade.evaluation.choice import chosen, is_resolved, passed_over, seed_text
from palisade.evaluation.claims import Violation, violations
from palisade.evaluation.curves import FPR, strongest_row
from palisade.evaluation.findings import AUC, Findings, tpr_at
from palisade.evaluation.flags.flags import refutation
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.guessing import excludes_guessing, guessing_text
from palisade.evaluation.report.game import shadows_of
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


def verdicts(findings: Sequence[Findings]) -> list[Verdict]:
    """A verdict on each of the chosen runs."""
    violated = {violation.found.run: violation for violation in violations(findings)}
    told = []
    for heading, found in chosen(findings):
        resolved = is_resolved(found)
        measured = percent(strongest_row(found, tpr_at(FPR)), interval=True) if resolved else _auc(found)
        told.append(
            Verdict(
                heading=heading,
                refuted=found.run in violated,
                measure=f"members found at {100 * FPR:g} % FPR" if resolved else AUC.upper(),
                leakage=measured,
                utility=found.utility.text(found.get(found.utility.metric), interval=True),
                sentence=_refutation(found, violated) + sentence(found) + _masks(found, findings),
            )
        )
    return told


def sentence(found: Findings) -> str:
    """TPR at 1 % FPR of the strongest attack, or else its AUC, under which threat model, and against guessing."""
    row, where = strongest_row(found, tpr_at(FPR)), scope(found)
    told = f"{where[0].upper()}{where[1:]}: at {100 * FPR:g} % false accusations"
    if row is None:
        return f"{told} it cannot be measured what attacks find."
    if not is_resolved(found):
        row = found.get(AUC, attack=found.strongest)
        told += (
            f" it cannot be measured what attacks find. The best attack ({found.strongest}) ranks members"
            f" above non-members with an AUC of {_auc(found)}; guessing has 0.5."
        )
    else:
        told += (
            f" the best attack ({found.strongest}) finds {percent(row, interval=True)} of members;"
            f" guessing finds {guessing_text(found, row)}."
        )
    unclear = row.low is not None and not excludes_guessing(found, row)
    return told + (against_chance(found, found.strongest) if unclear else "")


def scope(found: Findings) -> str:
    """The threat model of the strongest attack, such as `black-box, 15 shadow models that know the defense`."""
    row = strongest_row(found, tpr_at(FPR))
    access = row.access.replace("_", "-") if row is not None else "no attack"
    if row is not None and if_leaked(found, row):
        access += f" ({IF_LEAKED})"
    shadows = shadows_of(found)
    return f"{access}, {shadows} shadow model{'s' * (shadows != 1)} that know the defense" if shadows else access


def _refutation(found: Findings, violated: Mapping[str, Violation]) -> str:
    """The sentence that comes before all else, empty if the claim stands."""
    if found.run not in violated:
        return ""
    return f"The claim of {title(found)} is refuted: {refutation(violated[found.run]).sentence} "


def _masks(found: Findings, findings: Sequence[Findings]) -> str:
    """That the run only masks what it leaks, or that others which do were passed over for it."""
    if own := list(masked(found, findings)):
        return f" Masked, not protected: {own[0].sentence}"
    others = [] if is_undefended(found) else passed_over(found, findings)
    if not others:
        return ""
    listed = ", ".join(f"{title(other)}{seed_text(other, findings)}" for other in others)
    return f" Passed over, since what looks like less leakage is only masked: {listed}."


def _auc(found: Findings) -> str:
    return auc_text(found.get(AUC, attack=found.strongest))
