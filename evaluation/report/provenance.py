"""Provenance of a report: claims, runs, libraries and releases."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from palisade.evaluation.comparison import ordered
from palisade.evaluation.format import NO_NUMBER
from palisade.evaluation.labels import label, series_label
from palisade.evaluation.protocol import PROTOCOL_VERSION
from palisade.evaluation.result import Result
from palisade.targets import RESULTS_VERSION, versions
from palisade.targets.statement import STATEMENT_FIELDS

RUN_LIBRARIES = ("torch", "opacus", "pytorch-lightning", "hydra-core", "numpy", "scipy", "scikit-learn")
FREE_PARTS = ("defense", "guard", "canary", "guesses", "seed")
"""Parts of a configuration in which runs on one curve may differ."""


def promises(results: Sequence[Result]) -> dict[str, Any]:
    """The parts of the page that tell of claims, by the names that it has for them."""
    runs = ordered(results)
    private = [result for result in runs if result.epsilon is not None]
    return {
        "claims": [(label(result), result.statement) for result in private],
        "facts": _facts(private),
        "unproven": list(dict.fromkeys(series_label(result) for result in runs if result.epsilon is None)),
        "guarded": list(dict.fromkeys(series_label(result) for result in runs if result.guard != "none")),
        "not_covered": _not_covered(runs),
        "follows": [label(result) for result in private if result.statement.guarantee and _follows(result)],
        "guarantees": sum(result.statement.guarantee for result in private),
    }


def _follows(result: Result) -> bool:
    """True if δ follows from the size of the training set, rather than being set."""
    defense = result.config.get("defense", {})
    return defense.get("delta") is None and (defense.get("base") or {}).get("delta") is None


def _facts(private: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Table of the mechanisms: for each thing that is known of any run, its value for every run."""
    values = {
        words: [getattr(result.statement, name) for result in private] for name, words in STATEMENT_FIELDS.items()
    }
    return [(words, list(map(_fact, row))) for words, row in values.items() if any(value is not None for value in row)]


def _fact(value: Any) -> str:
    if value is None:
        return NO_NUMBER
    return f"{value:.4g}".replace("inf", "∞") if isinstance(value, float) else str(value)


def _not_covered(runs: Sequence[Result]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Restrictions of the claims, each list once, with the runs whose claim it is."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for result in runs:
        if result.statement.guarantee and result.statement.not_covered:
            lists.setdefault(result.statement.not_covered, []).append(label(result))
    return list(lists.items())


def provenance(results: Sequence[Result], command: str, table: str) -> dict[str, Any]:
    """Provenance of the results, as report.json and the end of report.html hold it.

    Args:
        results: of comparable runs.
        command: what was called.
        table: the text of results.csv.
    """
    runs = ordered(results)
    return {
        "command": command,
        "shared": {key: value for key, value in runs[0].config.items() if key not in (*FREE_PARTS, "names", "fleet")},
        "runs": [
            {
                "title": label(result),
                "run": result.run,
                "data": result.dataset.get("checksum", ""),
                "setting": _setting(result),
            }
            for result in runs
        ],
        "versions": versions(RUN_LIBRARIES),
        "results_version": RESULTS_VERSION,
        "method_version": PROTOCOL_VERSION,
        "sha256": {"results.csv": hashlib.sha256(table.encode()).hexdigest()},
    }


def as_yaml(content: Mapping[str, Any], *, flow: bool = False) -> str:
    """Settings as they stand in a configuration file; in one line with `flow`."""
    text: str = yaml.safe_dump(
        dict(content), sort_keys=False, allow_unicode=True, default_flow_style=flow, width=math.inf
    )
    return text.strip()


def _setting(result: Result) -> dict[str, Any]:
    own = {key: result.config[key] for key in FREE_PARTS if result.config.get(key) is not None}
    if result.guard != "none":
        own["guard"] = {"name": result.guard, "strength": result.guard_strength}
    return own
