"""The choice of runs that stand for an evaluation, and for a defense, where not all can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from palisade.evaluation.claims import violations
from palisade.evaluation.curves import FPR, Series, ordered, strongest_row
from palisade.evaluation.findings import AUC, Findings, tpr_at
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.flags.ties import is_tied
from palisade.evaluation.guessing import null_quantile
from palisade.evaluation.titles import canary_text, has_canaries, is_undefended, title
from palisade.evaluation.utility import AFFORDABLE, worth

MANY = 16
"""More runs than a legend can name."""


def chosen(findings: Sequence[Findings]) -> list[tuple[str, Findings]]:
    """Runs whose claim is refuted, the undefended one, where attacks found least, and the same among the useful.

    Each with its heading; useful are those nearly as useful as any. Fleets with canaries are told beside these, and
    stand here only where there is nothing else; so are runs that mask what they leak, with a heading that says so. AUC
    decides where no run can be resolved at 1 % FPR.
    """
    refuted = {violation.found.run: violation.found for violation in violations(findings)}
    told = [(f"Claim refuted: {title(found)}{seed_text(found, findings)}", found) for found in refuted.values()]
    runs = _comparable(findings)
    told += [
        (f"Undefended{canary_text(found)}{seed_text(found, findings)}", found) for found in runs if is_undefended(found)
    ]
    sound = [found for found in runs if not is_undefended(found) and found.run not in refuted]
    defended = [found for found in sound if is_resolved(found)] or sound
    protected = [found for found in defended if not is_masked(found, findings)] or defended
    useful = [found for found in protected if worth(found) >= max(map(worth, runs)) - AFFORDABLE]
    nearly = f"Best protected {findings[0].utility.nearly}"
    for heading, candidates in (("Best protected", protected), (nearly, useful)):
        if candidates:
            best = least_leaking(candidates)
            though = ", though only masked" * is_masked(best, findings) or _though(best, runs)
            if best not in [found for _, found in told]:
                told.append((f"{heading}{though}: {title(best)}{seed_text(best, findings)}", best))
    return told


def _though(best: Findings, runs: Sequence[Findings]) -> str:
    """Addition to a heading where the undefended models of the same seed leak as little."""
    bare = [found for found in runs if is_undefended(found) and found.seed == best.seed]
    alike = any(is_resolved(found) == is_resolved(best) and leaking(found) <= leaking(best) for found in bare)
    return ", though no less was found than undefended" * alike


def passed_over(best: Findings, findings: Sequence[Findings]) -> list[Findings]:
    """The runs that look better protected than this one, and only mask what they leak."""
    runs = [found for found in _comparable(findings) if is_resolved(found) == is_resolved(best)]
    return [found for found in runs if leaking(found) < leaking(best) and is_masked(found, findings)]


def readable(lines: Sequence[Series]) -> Sequence[Series]:
    """All runs if a legend can name them, otherwise one of each line.

    That is where attacks find least among the runs of the line that are nearly as useful as any run; its most
    useful one where none is.
    """
    if not are_many(lines):
        return lines
    most = max(worth(found) for line in lines for found in line.runs)
    return [replace(line, runs=[_best(line.runs, most)]) for line in lines]


def are_many(lines: Sequence[Series]) -> bool:
    """Need of figures with a legend of runs to show only one of each line."""
    return sum(len(line.runs) for line in lines) > MANY


def _best(runs: Sequence[Findings], most: float) -> Findings:
    attacked = [found for found in runs if found.attacks] or runs
    useful = [found for found in attacked if worth(found) >= most - AFFORDABLE]
    return least_leaking(useful) if useful else max(attacked, key=worth)


def least_leaking(findings: Sequence[Findings]) -> Findings:
    """The run whose strongest attack finds least; of equal ones the most useful."""
    return min(findings, key=lambda found: (leaking(found), -worth(found)))


def leaking(found: Findings) -> float:
    """TPR at 1 % FPR of the run's strongest attack, or its AUC where that cannot be resolved.

    Rates that luck explains count alike: which of them is lower says nothing.
    """
    resolved = is_resolved(found)
    row = strongest_row(found, tpr_at(FPR) if resolved else AUC)
    if row is None or row.value is None:
        return 0.0
    return FPR if resolved and row.value <= null_quantile(found, row) else row.value


def is_resolved(found: Findings) -> bool:
    """Validity of the TPR at 1 % FPR as a measure: neither too few non-members nor too many of one score."""
    row = strongest_row(found, tpr_at(FPR))
    return row is not None and row.value is not None and not is_tied(found)


def is_masked(found: Findings, together: Sequence[Findings]) -> bool:
    """Masking of what a run leaks: labels alone tell more than attacks on scores find."""
    return any(masked(found, together))


def seed_text(found: Findings, findings: Sequence[Findings]) -> str:
    """Words that tell a run from those of other seeds, if there are any."""
    return f" (seed {found.seed})" if len({other.seed for other in findings}) > 1 else ""


def _comparable(findings: Sequence[Findings]) -> list[Findings]:
    """The attacked runs on all records, or else those on canaries."""
    attacked = [found for found in ordered(findings) if found.attacks]
    return [found for found in attacked if not has_canaries(found)] or attacked
