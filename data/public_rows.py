"""Public rows: those of a file of their own, which must not be rows of the private file."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from palisade.data.cells import key_of

if TYPE_CHECKING:
    import pandas as pd

CHANCE_DEVIATIONS, CHANCE_ROWS = 3, 3
"""Standard deviations, and rows, beyond the mean number of equal rows that chance explains."""
UNSEEN_ROWS = 3
"""Rows with an equal one that a table may have lost by chance at 95 % confidence, even if it has none."""


def check_public(setting: str, private: pd.DataFrame, public: pd.DataFrame) -> None:
    """Raises ValueError if public rows are private ones.

    Both tables are compared with what chance brings: a row of one table equals one of another table of the same people
    as often as it equals a further one of its own (Good, 1953, The population frequencies of species).

    Args:
        setting: that names the public file, for errors.
        private: cells of `Reading.cells`.
        public: likewise, of the same columns.
    """
    private_rows, public_rows = _rows_of(private), _rows_of(public)
    common = sum(count for row, count in public_rows.items() if row in private_rows)
    copied = sum(count for row, count in private_rows.items() if row in public_rows)
    chance, chance_copied = _chance(len(public), private_rows), _chance(len(private), public_rows)
    if common > chance or copied > chance_copied or private_rows == public_rows:
        raise ValueError(
            f"{setting}: expected records that are public, and {common:,} of its {len(public):,} rows are rows of"
            " data.path; remove them, or set split.reference=0.1 instead"
        )


def _rows_of(table: pd.DataFrame) -> Counter[tuple[Any, ...]]:
    """Counts of equal rows, numbers by value."""
    return Counter(zip(*(_keys(table[name]) for name in table), strict=True))


def _keys(cells: pd.Series) -> list[Any]:
    keys = {cell: cell if (key := key_of(cell)) is None else key for cell in cells.dropna().unique()}
    return cells.map(keys).astype(object).fillna("").tolist()


def _chance(rows: int, others: Counter[tuple[Any, ...]]) -> float:
    """The most of so many rows that equal one of another table by chance."""
    repeated = sum(count for count in others.values() if count > 1)
    total = others.total()
    share = min(1.0, (repeated + UNSEEN_ROWS) / total)
    deviation = math.sqrt(rows * share * (1 - share) * (1 + rows / total))  # of both tables
    return rows * share + CHANCE_DEVIATIONS * deviation + CHANCE_ROWS
