"""What an evaluation found, in sentences that carry their scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.claims import Violation, violations
from evaluation.curves import FPR, UTILITY, canary_text, has_canaries, is_undefended, ordered, strongest_row, title
from evaluation.findings import AUC, Findings, tpr_at
from evaluation.flags import VIOLATED, flags
from evaluation.table import NOTHING, percent

TWINS = {"complementary": 2, "fixed": None}
"""How many models are no shadow of a target: itself, and its twin; with a fixed split all train on the same records."""

AFFORDABLE = 0.05
NEARLY = f"within {100 * AFFORDABLE:g} points of the best accuracy"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One run in a sentence.

    Args:
        heading: which run, and why it stands here.
        refuted: whether its claim is.
        measure: what tells the leakage: members found at 1 % FPR, or AUC where that cannot be resolved.
        leakage: its value, for a large print.
        utility: test accuracy, likewise.
        sentence: all of it with its scope.
    """

    heading: str
    refuted: bool
    measure: str
    leakage: str
    utility: str
    sentence: str


def chosen(findings: Sequence[Findings]) -> list[tuple[str, Findings]]:
    """Runs whose claim is refuted, the undefended one, where attacks found least, and the same among the useful.

    Each with its heading; useful are those nearly as accurate as any. Fleets with canaries are told beside these, and
    stand here only where there is nothing else. AUC decides where no run can be resolved at 1 % FPR.
    """
    refuted = {violation.found.run: violation.found for violation in violations(findings)}
    told = [(f"Claim refuted: {title(found)}{_seed(found, findings)}", found) for found in refuted.values()]
    attacked = [found for found in ordered(findings) if found.attacks]
    runs = [found for found in attacked if not has_canaries(found)] or attacked
    told += [
        (f"Undefended{canary_text(found)}{_seed(found, findings)}", found) for found in runs if is_undefended(found)
    ]
    sound = [found for found in runs if not is_undefended(found) and found.run not in refuted]
    defended = [found for found in sound if _is_resolved(found)] or sound
    useful = [found for found in defended if _utility(found) >= max(map(_utility, runs)) - AFFORDABLE]
    for heading, candidates in (("Best protected", defended), (f"Best protected {NEARLY}", useful)):
        if candidates:
            best = min(candidates, key=lambda found: (_leakage(found), -_utility(found)))
            if best not in [found for _, found in told]:
                told.append((f"{heading}: {title(best)}{_seed(best, findings)}", best))
    return told


def verdicts(findings: Sequence[Findings]) -> list[Verdict]:
    """A verdict on each of the chosen runs."""
    violated = {violation.found.run: violation for violation in violations(findings)}
    return [
        Verdict(
            heading=heading,
            refuted=found.run in violated,
            measure=f"members found at {100 * FPR:g} % FPR" if _is_resolved(found) else AUC.upper(),
            leakage=percent(strongest_row(found, tpr_at(FPR)), interval=True) if _is_resolved(found) else _auc(found),
            utility=percent(found.get(UTILITY)),
            sentence=_refutation(found, violated) + sentence(found),
        )
        for heading, found in chosen(findings)
    ]


def sentence(found: Findings) -> str:
    """What the strongest attack finds at 1 % FPR, or else its AUC, under which threat model, and against guessing."""
    row, where = strongest_row(found, tpr_at(FPR)), scope(found)
    told = f"{where[0].upper()}{where[1:]}: at {100 * FPR:g} % false accusations"
    if row is None:
        return f"{told} it cannot be measured what attacks find."
    guessing = FPR
    if row.value is None:
        row, guessing = found.get(AUC, attack=found.strongest), 0.5
        told += (
            f" it cannot be measured what attacks find. The best attack ({found.strongest}) ranks members"
            f" above non-members with an AUC of {_auc(found)}; guessing has 0.5."
        )
    else:
        told += (
            f" the best attack ({found.strongest}) finds {percent(row, interval=True)} of members;"
            f" guessing finds {100 * FPR:g} %."
        )
    if row.low is not None and row.low <= guessing:
        told += " That is no better than guessing within its interval, which proves nothing about stronger attacks."
    return told


def scope(found: Findings) -> str:
    """The threat model of the strongest attack, such as `black-box, 15 shadow models that know the defense`."""
    row = strongest_row(found, tpr_at(FPR))
    access = row.access.replace("_", "-") if row is not None else "no attack"
    shadows = _shadows(found)
    return f"{access}, {shadows} shadow model{'s' * (shadows != 1)} that know the defense" if shadows else access


def _shadows(found: Findings) -> int:
    own = TWINS.get(found.config["membership"]["how"], 1)
    return 0 if own is None else found.models - own


def _utility(found: Findings) -> float:
    return found.get(UTILITY).value or 0.0


def _refutation(found: Findings, violated: Mapping[str, Violation]) -> str:
    """What comes before all else, empty if the claim stands."""
    if found.run not in violated:
        return ""
    (reason,) = [flag.sentence for flag in flags(found, [violated[found.run]]) if flag.name == VIOLATED]
    return f"The claim of {title(found)} is refuted: {reason} "


def _is_resolved(found: Findings) -> bool:
    row = strongest_row(found, tpr_at(FPR))
    return row is not None and row.value is not None


def _leakage(found: Findings) -> float:
    row = strongest_row(found, tpr_at(FPR) if _is_resolved(found) else AUC)
    return 0.0 if row is None else row.value or 0.0


def _auc(found: Findings) -> str:
    row = found.get(AUC, attack=found.strongest)
    if row.value is None:
        return NOTHING
    return f"{row.value:.3f}" + ("" if row.low is None or row.high is None else f" [{row.low:.3f}–{row.high:.3f}]")


def _seed(found: Findings, findings: Sequence[Findings]) -> str:
    return f" (seed {found.seed})" if len({other.seed for other in findings}) > 1 else ""
