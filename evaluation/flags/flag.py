"""A reason not to believe a result, or not to believe it too much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A warning about one run.

    Args:
        name: for the table.
        sentence: the same in plain words, for the report.
    """

    name: str
    sentence: str
