"""Writes an evaluation: tidy numbers for programs, figures, and a report for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.curves import ordered
from evaluation.exposure import exposed_csv
from evaluation.exposure_plot import exposure
from evaluation.findings import COLUMNS, Findings
from evaluation.flag import Flag
from evaluation.flags import VIOLATED, flags
from evaluation.page import inline, render
from evaluation.plots import tradeoff
from evaluation.roc_plot import roc
from evaluation.style import save, svg
from evaluation.titles import title
from evaluation.verdict import verdicts
from targets.files import write as write_text

SCOPE = "internal"


def write(findings: Sequence[Findings], folder: Path, command: str) -> list[Path]:
    """Writes tidy numbers, figures and report of comparable runs, each file whole or not at all.

    The report's scope is internal: its numbers were measured on private records, and some of these are named.

    Args:
        findings: of at least one run.
        folder: where to; made if it is missing.
        command: what was called, for whoever wants to repeat it.

    Returns:
        The files, each figure as PNG; an SVG of it stands beside.

    Raises:
        ValueError: if the runs are not comparable.
    """
    figures = {"tradeoff": tradeoff(findings), "roc": roc(findings)}
    texts = {"results.csv": tidy_csv(findings)}
    if any(found.exposed for found in findings):
        figures["exposure"] = exposure(findings)
        texts["exposed.csv"] = exposed_csv(findings)
    content = summary(findings, command)
    drawings = {name: svg(figure) for name, figure in figures.items()}
    texts["report.html"] = render(findings, content, {name: inline(text, name) for name, text in drawings.items()})
    texts["report.json"] = _strict_json(content)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**texts, **{f"{name}.svg": text for name, text in drawings.items()}}.items():
        write_text(folder / name, text)
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    return [folder / name for name in (*texts, *(f"{name}.png" for name in figures))]


def tidy_csv(findings: Sequence[Findings]) -> str:
    """Every number of every run by `COLUMNS`; an infinite ε is `inf`, what is missing is empty."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    table.writeheader()
    for found in ordered(findings):
        table.writerows(found.tidy())
    return buffer.getvalue()


def summary(findings: Sequence[Findings], command: str) -> dict[str, Any]:
    """What report.json holds and report.html tells."""
    return {
        "scope": SCOPE,
        "data": findings[0].data,
        "network": findings[0].network,
        "command": command,
        "verdicts": [asdict(verdict) for verdict in verdicts(findings)],
        "runs": [_run(found, flags(found, findings)) for found in ordered(findings)],
    }


def _run(found: Findings, flagged: Sequence[Flag]) -> dict[str, Any]:
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
        "audit": dict(found.audit),
        "violated": any(flag.name == VIOLATED for flag in flagged),
        "flags": [asdict(flag) for flag in flagged],
        "skipped": dict(found.skipped),
        "config": found.config,
    }


def _strict_json(content: Mapping[str, Any]) -> str:
    return json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """Plain values in which infinity is the text "inf"."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
