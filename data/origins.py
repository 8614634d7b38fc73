"""Origins of records: the person behind each one, and its line in the file, for those who may see the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palisade.data.settings import instantiated


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Origins of the records of a data set, by index.

    Args:
        persons: the words that name them in the data; None where none do.
        lines: of the file, counted from 1 with the header; None where a file has no lines.
    """

    persons: Sequence[str] | None = None
    lines: Sequence[int] | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Origins:
        """The origins in the data of a run's configuration; nothing where its source tells none.

        Args:
            data: the node of the source.
        """
        source: Any = instantiated("data", data, object)
        return source.read_origins() if hasattr(source, "read_origins") else UNKNOWN_ORIGINS

    def person(self, record: int) -> str:
        """The person behind a record; empty where nothing names one, as of a canary."""
        return self.persons[record] if self.persons is not None and record < len(self.persons) else ""

    def line(self, record: int) -> str:
        """The line of a record; empty where it has none."""
        return str(self.lines[record]) if self.lines is not None and record < len(self.lines) else ""


UNKNOWN_ORIGINS = Origins()
