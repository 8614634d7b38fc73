"""Everything that a report tells, as plain values in the order of the page: report.json, and what report.html shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import VIOLATED, Flag, flags
from palisade.evaluation.groups import groups
from palisade.evaluation.labels import title
from palisade.evaluation.report.game import game, grants
from palisade.evaluation.report.glossary import GLOSSARY
from palisade.evaluation.report.outsiders import FalseAccusations, outsiders
from palisade.evaluation.report.provenance import provenance
from palisade.evaluation.report.scope import INTERNAL, NOTES
from palisade.evaluation.report.sections import compared, evidence, exposed, pareto
from palisade.evaluation.report.utility_loss import costs
from palisade.evaluation.report.verdict import verdicts
from palisade.evaluation.result import Result
from palisade.evaluation.table import skips


def summary(
    comparison: Comparison,
    command: str,
    *,
    table: str = "",
    scope: str = INTERNAL,
    releases: Mapping[str, str] | None = None,
    accusations: FalseAccusations | None = None,
) -> dict[str, Any]:
    """Content of report.json and report.html, in the same order.

    Args:
        comparison: of comparable runs; for the public scope those that are `published`.
        command: what was called.
        table: the text of results.csv, of which a hash is told.
        scope: `internal` or `public`.
        releases: of results, by name, the folder of the release that was trained by the same recipe.
        accusations: false positive rates on records that were never used; None if they were not measured.
    """
    results, shipped = comparison.results, releases or {}
    return {
        "scope": scope,
        "note": NOTES[scope],
        "data": results[0].data,
        "network": results[0].network,
        "utility": asdict(results[0].utility),
        "verdicts": _plain(verdicts(comparison)),
        "released": {
            "facts": dict(results[0].dataset),
            "answers": ", ".join(dict.fromkeys(result.released for result in results)),
            "releases": {title(result): shipped[result.run] for result in results if result.run in shipped},
        },
        "game": game(results[0]),
        "granted": _plain(grants(results)),
        "exposed": _plain(exposed(comparison)),
        "groups": _plain(groups(comparison)),
        "compared": _plain(compared(results)),
        "costs": _plain(costs(results)),
        "evidence": _plain(evidence(comparison, scope)),
        "pareto": pareto(comparison),
        "runs": [_run(result, flags(result, comparison), scope) for result in results],
        "never_used": outsiders(accusations, results, command),
        "skipped": [skip._asdict() for skip in skips(results)],
        "reproduce": provenance(results, command, table),
        "glossary": dict(GLOSSARY),
    }


def _plain(parts: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(part) for part in parts]


def _run(result: Result, flagged: Sequence[Flag], scope: str) -> dict[str, Any]:
    return {
        "run": result.run,
        "title": title(result),
        "folder": result.folder,
        "defense": result.defense,
        "guard": result.guard,
        "canary": result.canary,
        "threat": result.threat,
        "released": result.released,
        "strength": result.strength,
        "guard_strength": result.guard_strength,
        "seed": result.seed,
        "models": result.models,
        "strongest": result.strongest if result.attacks else None,
        "rows": [vars(row) for row in result.rows],
        "roc": {attack: {"fpr": list(fpr), "tpr": list(tpr)} for attack, (fpr, tpr) in result.roc.items()},
        "statement": {**asdict(result.statement), "sentence": result.statement.sentence()},
        "needs": dict(result.needs),
        "audit": {name: value for name, value in result.audit.items() if scope == INTERNAL or name != "correct"},
        "violated": any(flag.name == VIOLATED for flag in flagged),
        "flags": [asdict(flag) for flag in flagged],
        "skipped": dict(result.skipped),
        "config": result.config,
    }
