"""Provenance of a report: the command, the configuration, the versions of the software, and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from palisade.evaluation.comparison import ordered
from palisade.evaluation.labels import title
from palisade.evaluation.method import METHOD_VERSION
from palisade.evaluation.result import Result
from palisade.targets import RESULTS_VERSION, versions

LIBRARIES = ("torch", "opacus", "pytorch-lightning", "hydra-core", "numpy", "scipy", "scikit-learn")
OWN = ("defense", "guard", "canary", "guesses", "seed")
"""Parts of a configuration in which runs on one curve may differ."""


def provenance(results: Sequence[Result], command: str, table: str) -> dict[str, Any]:
    """Provenance as report.json holds it and the end of report.html tells it.

    Args:
        results: of comparable runs.
        command: what was called.
        table: the text of results.csv.
    """
    runs = ordered(results)
    return {
        "command": command,
        "shared": {key: value for key, value in runs[0].config.items() if key not in (*OWN, "names", "fleet")},
        "runs": [
            {
                "title": title(result),
                "run": result.run,
                "data": result.dataset.get("checksum", ""),
                "setting": _setting(result),
            }
            for result in runs
        ],
        "versions": versions(LIBRARIES),
        "results_version": RESULTS_VERSION,
        "method_version": METHOD_VERSION,
        "sha256": {"results.csv": hashlib.sha256(table.encode()).hexdigest()},
    }


def as_yaml(content: Mapping[str, Any], *, flow: bool = False) -> str:
    """Settings as they stand in a configuration file; in as few lines as possible with `flow`."""
    style = None if flow else False
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_flow_style=style)
    return text.strip()


def _setting(result: Result) -> dict[str, Any]:
    own = {key: result.config[key] for key in OWN if result.config.get(key) is not None}
    if result.guard != "none":
        own["guard"] = {"name": result.guard, "strength": result.guard_strength}
    return own
