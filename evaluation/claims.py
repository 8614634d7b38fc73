"""Claims of ε and their refutation: the only finding on ε that may fail an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palisade.evaluation.format import floored
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import one_run
from palisade.targets.files import write_json
from palisade.targets.run import Run

WAYS_FOLDER = "ways"
"""In a run's private folder, a file for each way that was tried, named by its digest: two evaluations lose none."""
FAMILYWISE_ALPHA = 0.05
"""Probability that an evaluation calls a true claim violated, at most, all its claims together."""


def ways_tried(run: Run, way: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The ways by which answers of a run, behind one guard, were ever audited, by their digests.

    Models behind another guard are another release, with bounds of their own.

    Args:
        run: that is audited.
        way: one that counts whether it is recorded or not: plain values under `audit`, `grant`, `queries`, `guesses`
            and whatever else the scores depend on. So does the same at the share that the run recorded before it was
            trained: another one is a second choice from the start.

    Raises:
        ValueError: if a file among those recorded is none of them.
    """
    fixed = {**way, "guesses": run.guesses}
    recorded = (_recorded(path) for path in sorted(_folder(run).glob("*.json")))
    behind = [each for each in recorded if each.get("guard") == run.guard]
    return {_digest(each): each for each in (*behind, *({**each, "guard": run.guard} for each in (fixed, way)))}


def record_way(run: Run, way: Mapping[str, Any]) -> int:
    """The number of ways tried, this one among them, which is recorded before anybody sees what it shows.

    Raises:
        ValueError: if a file among those recorded is none of them.
    """
    folder = _folder(run)
    folder.mkdir(mode=0o700, exist_ok=True)
    for digest, each in ways_tried(run, way).items():
        if not (path := folder / f"{digest}.json").exists():
            write_json(path, each)
    return len(ways_tried(run, way))  # of two evaluations at a time, at least the later one counts both


def _folder(run: Run) -> Path:
    return run.folder / "private" / WAYS_FOLDER


def _recorded(path: Path) -> Mapping[str, Any]:
    try:
        way = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        way = None
    if not isinstance(way, Mapping) or _digest(way) != path.stem:
        raise ValueError(f"{path} is no recorded way of auditing the run; remove this file")
    return way


def _digest(way: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(way, sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A run whose stated ε is refuted.

    Args:
        result: the run's results.
        bound: ε is larger than this.
        level: the probability of such guesses, had the claim been true, is at most this.
    """

    result: Result
    bound: float
    level: float


def violations(results: Sequence[Result]) -> list[Violation]:
    """The runs whose claim is disproved by the guesses on model 0 (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    One model, fixed beforehand, and one bound, which assumes nothing about the mechanism: other bounds are shown, but
    the largest of several would refute true claims too often.

    Args:
        results: of all runs that are judged together; each claim is tested at 0.05 over the number of claims, and over
            the number of ways of auditing that were tried on its run.
    """
    level = level_of(results)
    bounds = [(result, _bound(result, level)) for result in results if is_tested(result) and result.audit]
    return [
        Violation(result=result, bound=bound, level=level / ways_of(result))
        for result, bound in bounds
        if bound > (result.statement.epsilon or 0.0)
    ]


def is_tested(result: Result) -> bool:
    """Testability of a claim: there is one, it bounds these attacks, and no guard makes it the same test again."""
    return result.statement.guarantee and result.bounded and result.guard == "none"


def level_of(results: Sequence[Result]) -> float:
    """The level at which each claim is tested, by all ways of auditing its run that were tried together."""
    return FAMILYWISE_ALPHA / max(sum(map(is_tested, results)), 1)


def ways_of(result: Result) -> int:
    """The number of ways of auditing a run that were tried: each is tested at the level of the claim over it.

    All of them together then refute a true claim with a probability of at most that level (Bonferroni), judged after
    the last one. Whoever judges after each, and stops at the first refutation, is wrong with at most 1 + 1/2 + … + 1/n
    times that probability.
    """
    count: int = result.audit.get("ways", 1)
    return count


def is_refutable(result: Result, level: float) -> bool:
    """Refutability of the run's claim by a perfect attack: with few guesses or a large δ none can."""
    perfect = replace(result, audit={**result.audit, "correct": result.audit["guesses"]})
    return _bound(perfect, level) > (result.statement.epsilon or 0.0)


def deciding(result: Result, level: float) -> Mapping[str, Any]:
    """The audit of a run, with the bound and the ceiling that decide on its claim where several are tested together.

    Args:
        result: of the run.
        level: at which each claim is tested; the audit itself holds bounds as if there were one claim.
    """
    audit = result.audit
    if not (audit and is_tested(result)) or level >= FAMILYWISE_ALPHA:
        return audit
    perfect = replace(result, audit={**audit, "correct": audit["guesses"]})
    return {
        **audit,
        "bounds": {**audit["bounds"], "one_run": floored(_bound(result, level))},
        "ceilings": {**audit["ceilings"], "one_run": _bound(perfect, level)},
    }


def _bound(result: Result, level: float) -> float:
    audit, delta = result.audit, result.statement.delta or 0.0
    return one_run(audit["canaries"], audit["guesses"], audit["correct"], delta, level / ways_of(result))
