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

from evaluation import plots
from evaluation.curves import ordered, title
from evaluation.findings import COLUMNS, Findings
from evaluation.flags import flags
from evaluation.page import inline, render
from evaluation.style import save, svg
from evaluation.verdict import verdicts
from targets.files import write as write_text

SCOPE = "internal"
FILES = ("results.csv", "tradeoff.png", "report.html", "tradeoff.svg", "roc.png", "report.json")


def write(findings: Sequence[Findings], folder: Path, command: str) -> list[Path]:
    """Writes results.csv, figures and report of comparable runs, each file whole or not at all.

    The report's scope is internal: its numbers were measured on private records.

    Args:
        findings: of at least one run.
        folder: where to; made if it is missing.
        command: what was called, for whoever wants to repeat it.

    Returns:
        The files, the most wanted first.

    Raises:
        ValueError: if the runs are not comparable.
    """
    tradeoff, roc = plots.tradeoff(findings), plots.roc(findings)
    content = summary(findings, command)
    drawing = svg(tradeoff)
    figures = {"tradeoff": inline(drawing, "tradeoff"), "roc": inline(svg(roc), "roc")}
    page = render(findings, content, figures)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"results.csv": tidy_csv(findings), "report.html": page, "report.json": _strict_json(content)}
    for name, text in {**texts, "tradeoff.svg": drawing}.items():
        write_text(folder / name, text)
    save(tradeoff, folder / "tradeoff.png")
    save(roc, folder / "roc.png")
    return [folder / name for name in FILES]


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
        "runs": [_run(found) for found in ordered(findings)],
    }


def _run(found: Findings) -> dict[str, Any]:
    return {
        "run": found.run,
        "title": title(found),
        "folder": found.folder,
        "defense": found.defense,
        "guard": found.guard,
        "strength": found.strength,
        "seed": found.seed,
        "models": found.models,
        "strongest": found.strongest if found.attacks else None,
        "rows": [vars(row) for row in found.rows],
        "roc": {attack: {"fpr": list(fpr), "tpr": list(tpr)} for attack, (fpr, tpr) in found.roc.items()},
        "statement": {**asdict(found.statement), "sentence": found.statement.sentence()},
        "flags": [asdict(flag) for flag in flags(found)],
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
