"""Everything that a report tells, as plain values in the order of the page: report.json, and what report.html shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from palisade.evaluation.curves import ordered
from palisade.evaluation.findings import Findings
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.flags.flags import VIOLATED, flags
from palisade.evaluation.groups import groups
from palisade.evaluation.report.game import game, grants
from palisade.evaluation.report.glossary import GLOSSARY
from palisade.evaluation.report.outsiders import FalseAccusations, outsiders
from palisade.evaluation.report.provenance import provenance
from palisade.evaluation.report.scope import INTERNAL, NOTES
from palisade.evaluation.report.sections import compared, evidence, exposed, pareto
from palisade.evaluation.report.utility_loss import costs
from palisade.evaluation.report.verdict import verdicts
from palisade.evaluation.table import skips
from palisade.evaluation.titles import title


def summary(
    findings: Sequence[Findings],
    command: str,
    *,
    results: str = "",
    scope: str = INTERNAL,
    releases: Mapping[str, str] | None = None,
    accusations: FalseAccusations | None = None,
) -> dict[str, Any]:
    """Content of report.json and report.html, in the same order.

    Args:
        findings: of comparable runs; for the public scope those that are `published`.
        command: what was called.
        results: the text of results.csv, of which a hash is told.
        scope: `internal` or `public`.
        releases: of runs, by name, the folder of the release that was trained by the same recipe.
        accusations: false positive rates on records that were never used; None if they were not measured.
    """
    runs, shipped = ordered(findings), releases or {}
    return {
        "scope": scope,
        "note": NOTES[scope],
        "data": runs[0].data,
        "network": runs[0].network,
        "utility": asdict(runs[0].utility),
        "verdicts": _plain(verdicts(findings)),
        "released": {
            "facts": dict(runs[0].dataset),
            "answers": ", ".join(dict.fromkeys(found.released for found in runs)),
            "releases": {title(found): shipped[found.run] for found in runs if found.run in shipped},
        },
        "game": game(runs[0]),
        "granted": _plain(grants(runs)),
        "exposed": _plain(exposed(findings)),
        "groups": _plain(groups(findings)),
        "compared": _plain(compared(findings)),
        "costs": _plain(costs(findings)),
        "evidence": _plain(evidence(findings, scope)),
        "pareto": pareto(findings),
        "runs": [_run(found, flags(found, findings), scope) for found in runs],
        "never_used": outsiders(accusations, findings, command),
        "skipped": [skip._asdict() for skip in skips(findings)],
        "reproduce": provenance(findings, command, results),
        "glossary": dict(GLOSSARY),
    }


def _plain(parts: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(part) for part in parts]


def _run(found: Findings, flagged: Sequence[Flag], scope: str) -> dict[str, Any]:
    return {
        "run": found.run,
        "title": title(found),
        "folder": found.folder,
        "defense": found.defense,
        "guard": found.guard,
        "canary": found.canary,
        "threat": found.threat,
        "released": found.released,
        "strength": found.strength,
        "guard_strength": found.guard_strength,
        "seed": found.seed,
        "models": found.models,
        "strongest": found.strongest if found.attacks else None,
        "rows": [vars(row) for row in found.rows],
        "roc": {attack: {"fpr": list(fpr), "tpr": list(tpr)} for attack, (fpr, tpr) in found.roc.items()},
        "statement": {**asdict(found.statement), "sentence": found.statement.sentence()},
        "needs": dict(found.needs),
        "audit": {name: value for name, value in found.audit.items() if scope == INTERNAL or name != "correct"},
        "violated": any(flag.name == VIOLATED for flag in flagged),
        "flags": [asdict(flag) for flag in flagged],
        "skipped": dict(found.skipped),
        "config": found.config,
    }
