"""Kinds of columns, read off their cells: numbers, words or dates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from palisade.data.cells import PLAIN, Reading
from palisade.data.columns import UnfittedColumns

if TYPE_CHECKING:
    import pandas as pd

CODE = re.compile(r"0[0-9]+")
"""Whole numbers that are none: a code, such as 007."""


def columns_of(rows: pd.DataFrame, *, missing: Literal["error", "impute"], reading: Reading = PLAIN) -> UnfittedColumns:
    """Numbers where every cell is one and none is a code such as 007, and words everywhere else.

    Args:
        rows: cells of `Reading.cells`.
        missing: as in `UnfittedColumns`.
        reading: how numbers are written.
    """
    numeric = tuple(name for name in map(str, rows) if _is_numeric(rows[name].dropna().unique(), reading))
    categorical = tuple(name for name in map(str, rows) if name not in numeric)
    return UnfittedColumns(numeric=numeric, categorical=categorical, missing=missing, reading=reading)


def _is_numeric(words: Any, reading: Reading) -> bool:
    return all(reading.number(word) is not None and not CODE.fullmatch(word) for word in words)
