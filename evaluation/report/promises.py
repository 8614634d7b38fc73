"""Promises of the runs of a report: their claims, how these came about, and what they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palisade.evaluation.comparison import ordered
from palisade.evaluation.format import NOTHING
from palisade.evaluation.labels import line_name, title
from palisade.evaluation.result import Result

DESCRIBED = {
    "mechanism": "mechanism",
    "noise_multiplier": "noise multiplier σ", "max_grad_norm": "clipping norm C", "sampling": "sampling",
    "sampling_rate": "sampling rate q", "public_size": "public size N", "steps_planned": "steps planned",
    "steps_done": "steps done", "accountant": "accountant", "epsilon_rdp": "ε by Rényi accounting",
    "neighboring": "neighboring relation", "unit": "unit of privacy", "randomness": "randomness",
    "engine": "engine of clipping",
}  # fmt: skip
"""Fields of a statement that are shown, with their words."""


def promises(results: Sequence[Result]) -> dict[str, Any]:
    """The parts of the page that tell of claims, by the names that it has for them."""
    runs = ordered(results)
    private = [result for result in runs if result.epsilon is not None]
    return {
        "claims": [(title(result), result.statement) for result in private],
        "facts": _facts(private),
        "unproven": list(dict.fromkeys(line_name(result) for result in runs if result.epsilon is None)),
        "guarded": list(dict.fromkeys(line_name(result) for result in runs if result.guard != "none")),
        "not_covered": _not_covered(runs),
        "guarantees": sum(result.statement.guarantee for result in private),
    }


def _facts(private: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Table of the mechanisms: for each thing that is known of any run, its value for every run."""
    values = {words: [getattr(result.statement, name) for result in private] for name, words in DESCRIBED.items()}
    return [
        (words, [NOTHING if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row])
        for words, row in values.items()
        if any(value is not None for value in row)
    ]


def _not_covered(runs: Sequence[Result]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Restrictions of the claims, each list once, with the runs whose claim it is."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for result in runs:
        if result.statement.guarantee and result.statement.not_covered:
            lists.setdefault(result.statement.not_covered, []).append(title(result))
    return list(lists.items())
