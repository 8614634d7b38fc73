"""The choice of runs that stand for an evaluation, and for a defense, where not all can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from palisade.evaluation.claims import violations
from palisade.evaluation.curves import FPR, Series, ordered, strongest_row
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.flags.ties import is_tied
from palisade.evaluation.guessing import null_quantile
from palisade.evaluation.result import AUC, Result, tpr_at
from palisade.evaluation.titles import canary_text, has_canaries, is_undefended, title
from palisade.evaluation.utility import AFFORDABLE, worth

MANY = 16
"""More runs than a legend can name."""


def chosen(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """Runs whose claim is refuted, the undefended one, where attacks found least, and the same among the useful.

    Each with its heading; useful are those nearly as useful as any. Fleets with canaries are told beside these, and
    stand here only where there is nothing else; so are runs that mask what they leak, with a heading that says so. AUC
    decides where no run can be resolved at 1 % FPR.
    """
    refuted = {violation.result.run: violation.result for violation in violations(results)}
    told = [(f"Claim refuted: {title(result)}{seed_text(result, results)}", result) for result in refuted.values()]
    runs = _comparable(results)
    told += [
        (f"Undefended{canary_text(result)}{seed_text(result, results)}", result)
        for result in runs
        if is_undefended(result)
    ]
    sound = [result for result in runs if not is_undefended(result) and result.run not in refuted]
    defended = [result for result in sound if is_resolved(result)] or sound
    protected = [result for result in defended if not is_masked(result, results)] or defended
    useful = [result for result in protected if worth(result) >= max(map(worth, runs)) - AFFORDABLE]
    nearly = f"Best protected {results[0].utility.nearly}"
    for heading, candidates in (("Best protected", protected), (nearly, useful)):
        if candidates:
            best = least_leaking(candidates)
            though = ", though only masked" * is_masked(best, results) or _though(best, runs)
            if best not in [result for _, result in told]:
                told.append((f"{heading}{though}: {title(best)}{seed_text(best, results)}", best))
    return told


def _though(best: Result, runs: Sequence[Result]) -> str:
    """Addition to a heading where the undefended models of the same seed leak as little."""
    bare = [result for result in runs if is_undefended(result) and result.seed == best.seed]
    alike = any(is_resolved(result) == is_resolved(best) and leaking(result) <= leaking(best) for result in bare)
    return ", though no less was found than undefended" * alike


def passed_over(best: Result, results: Sequence[Result]) -> list[Result]:
    """The runs that look better protected than this one, and only mask what they leak."""
    runs = [result for result in _comparable(results) if is_resolved(result) == is_resolved(best)]
    return [result for result in runs if leaking(result) < leaking(best) and is_masked(result, results)]


def readable(lines: Sequence[Series]) -> Sequence[Series]:
    """All runs if a legend can name them, otherwise one of each line.

    That is where attacks find least among the runs of the line that are nearly as useful as any run; its most
    useful one where none is.
    """
    if not are_many(lines):
        return lines
    most = max(worth(result) for line in lines for result in line.runs)
    return [replace(line, runs=[_best(line.runs, most)]) for line in lines]


def are_many(lines: Sequence[Series]) -> bool:
    """Need of figures with a legend of runs to show only one of each line."""
    return sum(len(line.runs) for line in lines) > MANY


def _best(runs: Sequence[Result], most: float) -> Result:
    attacked = [result for result in runs if result.attacks] or runs
    useful = [result for result in attacked if worth(result) >= most - AFFORDABLE]
    return least_leaking(useful) if useful else max(attacked, key=worth)


def least_leaking(results: Sequence[Result]) -> Result:
    """The run whose strongest attack finds least; of equal ones the most useful."""
    return min(results, key=lambda result: (leaking(result), -worth(result)))


def leaking(result: Result) -> float:
    """TPR at 1 % FPR of the run's strongest attack, or its AUC where that cannot be resolved.

    Rates that luck explains count alike: which of them is lower says nothing.
    """
    resolved = is_resolved(result)
    row = strongest_row(result, tpr_at(FPR) if resolved else AUC)
    if row is None or row.value is None:
        return 0.0
    return FPR if resolved and row.value <= null_quantile(result, row) else row.value


def is_resolved(result: Result) -> bool:
    """Validity of the TPR at 1 % FPR as a measure: neither too few non-members nor too many of one score."""
    row = strongest_row(result, tpr_at(FPR))
    return row is not None and row.value is not None and not is_tied(result)


def is_masked(result: Result, together: Sequence[Result]) -> bool:
    """Masking of what a run leaks: labels alone tell more than attacks on scores find."""
    return any(masked(result, together))


def seed_text(result: Result, results: Sequence[Result]) -> str:
    """Words that tell a run from those of other seeds, if there are any."""
    return f" (seed {result.seed})" if len({other.seed for other in results}) > 1 else ""


def _comparable(results: Sequence[Result]) -> list[Result]:
    """The attacked runs on all records, or else those on canaries."""
    attacked = [result for result in ordered(results) if result.attacks]
    return [result for result in attacked if not has_canaries(result)] or attacked
