"""What an evaluation found, in sentences that carry their scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.curves import FPR, UTILITY, canary_text, has_canaries, is_undefended, ordered, strongest_row, title
from evaluation.findings import Findings, tpr_at
from evaluation.table import percent

TWINS = {"complementary": 2, "fixed": None}
"""How many models are no shadow of a target: itself, and its twin; with a fixed split all train on the same records."""

AFFORDABLE = 0.05
NEARLY = f"within {100 * AFFORDABLE:g} points of the best accuracy"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One run in a sentence.

    Args:
        heading: which run, and why it stands here.
        leakage: TPR at 1 % FPR, for a large print.
        utility: test accuracy, likewise.
        sentence: all of it with its scope.
    """

    heading: str
    leakage: str
    utility: str
    sentence: str


def chosen(findings: Sequence[Findings]) -> list[tuple[str, Findings]]:
    """The undefended run, the one in which attacks found least, and the same among those nearly as useful as any.

    Each with its heading. Fleets with canaries are told beside these, and stand here only where there is nothing else.
    """
    measured = [found for found in ordered(findings) if _leakage(found) is not None]
    runs = [found for found in measured if not has_canaries(found)] or measured
    told = [
        (f"Undefended{canary_text(found)}{_seed(found, findings)}", found) for found in runs if is_undefended(found)
    ]
    defended = [found for found in runs if not is_undefended(found)]
    useful = [found for found in defended if _utility(found) >= max(map(_utility, runs)) - AFFORDABLE]
    for heading, candidates in (("Best protected", defended), (f"Best protected {NEARLY}", useful)):
        if candidates:
            best = min(candidates, key=lambda found: (_leakage(found), -_utility(found)))
            if best not in [found for _, found in told]:
                told.append((f"{heading}: {title(best)}{_seed(best, findings)}", best))
    return told


def verdicts(findings: Sequence[Findings]) -> list[Verdict]:
    """A verdict on each of the chosen runs."""
    return [
        Verdict(
            heading=heading,
            leakage=percent(strongest_row(found, tpr_at(FPR)), interval=True),
            utility=percent(found.get(UTILITY)),
            sentence=sentence(found),
        )
        for heading, found in chosen(findings)
    ]


def sentence(found: Findings) -> str:
    """What the strongest attack finds at 1 % FPR, under which threat model, and against guessing."""
    row, where = strongest_row(found, tpr_at(FPR)), scope(found)
    told = f"{where[0].upper()}{where[1:]}: at {100 * FPR:g} % false accusations"
    if row is None or row.value is None:
        return f"{told} it cannot be measured what attacks find."
    told += (
        f" the best attack ({found.strongest}) finds {percent(row, interval=True)} of members;"
        f" guessing finds {100 * FPR:g} %."
    )
    if row.low is not None and row.low <= FPR:
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


def _leakage(found: Findings) -> float | None:
    row = strongest_row(found, tpr_at(FPR))
    return None if row is None else row.value


def _seed(found: Findings, findings: Sequence[Findings]) -> str:
    return f" (seed {found.seed})" if len({other.seed for other in findings}) > 1 else ""
