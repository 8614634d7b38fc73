"""Examples in docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "data", "defenses", "evaluation", "targets")
MODULES = sorted(
    "palisade." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0 and done.failed == 0


def test_there_are_examples() -> None:
    assert {
        "palisade.evaluation.statistics.roc",
        "palisade.evaluation.statistics.epsilon",
        "palisade.evaluation.limit",
    } <= set(MODULES)
