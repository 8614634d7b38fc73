"""Examples in docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

REPOSITORY_ROOT = Path(__file__).parents[2]
PACKAGE_NAMES = ("attacks", "data", "defenses", "evaluation", "targets")
MODULE_NAMES = sorted(
    "palisade." + ".".join(path.relative_to(REPOSITORY_ROOT).with_suffix("").parts)
    for package in PACKAGE_NAMES
    for path in (REPOSITORY_ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULE_NAMES)
def test_examples(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0 and done.failed == 0


def test_there_are_examples() -> None:
    assert {
        "palisade.evaluation.statistics.metrics",
        "palisade.evaluation.statistics.epsilon",
        "palisade.evaluation.limit",
    } <= set(MODULE_NAMES)
