"""Cells of tables: text until a column says what they are, for training, predictions, audits and endpoints alike."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from palisade.fields import as_written

if TYPE_CHECKING:
    import pandas as pd

NONE_WORD = "None"
"""A word in many tables, but missing to pandas: `Categorical` takes a missing value for this word where it has it."""
MISSING_WORDS = (
    *("", "?", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "NaN", "nan", "-NaN", "-nan"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Words for no value: those of pandas but `None`, since frames that it read hold none of them, and `?`."""
TRUTH_VALUES = {"true": 1.0, "false": 0.0}
CELLS_AT_ONCE = 1_000_000
"""Cells of a table that are read together: many columns of few rows, or one of many."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The way in which a table is written.

    Args:
        missing_words: words for no value, besides `MISSING_WORDS`.
        decimal: the sign before the fraction of a number.
        thousands: the sign between groups of three digits; None: there is none.
        symbols: signs beside numbers that are left out, such as $ and %.
        separator: the sign between the columns of a text file.
        header: whether the first row of a text file names the columns, or their names.
        encoding: of a text file.
    """

    missing_words: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str | None = None
    symbols: tuple[str, ...] = ()
    separator: str = ","
    header: bool | tuple[str, ...] = True
    encoding: str = "utf-8"

    def cells(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table's cells: text without blanks around it, numbers as they are, and NaN where there is no value.

        Args:
            table: as it stands in a file, or with columns of any type that pandas has.

        Raises:
            ValueError: if a cell holds a list or the like.
        """
        import pandas as pd

        missing, parts = {*MISSING_WORDS, *self.missing_words}, []
        for places, codes, distinct in numbered_cells(table):
            plain = np.empty(len(distinct) + 1, dtype=object)  # the last one is that of code −1, no value
            plain[:-1] = [_plain(cell) for cell in distinct]
            plain[-1] = np.nan
            for k, cell in enumerate(plain[:-1]):
                if cell in missing or (self._missing_numbers and key_of(cell) in self._missing_numbers):
                    plain[k] = np.nan
            parts.append((places, pd.DataFrame(plain[codes], index=table.index, dtype=object)))
        if len(numbers := _number_columns(table)):
            typed = table.iloc[:, numbers]
            parts.append((numbers, typed.mask(typed.isin(self._missing_numbers)) if self._missing_numbers else typed))
        if not parts:
            return table
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        return pd.concat([part for _, part in parts], axis=1).iloc[:, order].set_axis(table.columns, axis=1)

    def number(self, cell: Any) -> float | None:
        """The number that a cell holds, true and false as 1 and 0; None if it holds none."""
        if not isinstance(cell, str):
            return float(cell) if isinstance(cell, int | float | np.number | np.bool_) else None
        text = cell
        for symbol in self.symbols:
            sign = text[:1] if text[:1] in ("+", "-") else ""
            text = sign + text.removeprefix(sign).removeprefix(symbol).removesuffix(symbol).strip()
        if self._pattern.fullmatch(text):
            return float(text.replace(self.thousands or "\0", "").replace(self.decimal, "."))
        return TRUTH_VALUES.get(text.lower())

    def numbers(self, cells: pd.DataFrame) -> Float64[np.ndarray, "records columns"]:
        """Cells as numbers, NaN where there is no value.

        Raises:
            ValueError: if a cell holds no number, an infinite one, or one that was read by other signs than these.
        """
        if self.decimal != PLAIN_READING.decimal or self.thousands == PLAIN_READING.decimal:
            for name in cells:
                self._check_read(str(name), cells[name])
        numbers = np.empty(cells.shape, dtype=np.float64)
        typed = _number_columns(cells)
        numbers[:, typed] = cells.iloc[:, typed].to_numpy(dtype=np.float64)
        for places, codes, distinct in numbered_cells(cells):
            parsed = [self.number(cell) for cell in distinct]
            if None in parsed:
                row, column = np.argwhere(np.isin(codes, [k for k, one in enumerate(parsed) if one is None]))[0]
                raise ValueError(
                    f"column {cells.columns[places[column]]} has {quoted(distinct[codes[row, column]])} among its"
                    f" numbers, in row {row + 1}; correct it"
                )
            numbers[:, places] = np.array([*parsed, np.nan], dtype=np.float64)[codes]
        if (infinite := np.isinf(numbers).any(axis=0)).any():
            raise ValueError(f"column {cells.columns[infinite.argmax()]} has an infinite value; correct it")
        return numbers

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` restores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Reading:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            lists = {key: tuple(map(str, content.get(key) or ())) for key in ("missing_words", "symbols")}
            signs = {"decimal": content.get("decimal") or ".", "thousands": content.get("thousands")}
            signs["separator"] = content.get("separator") or ","
            named = content.get("header", True)
            header = named if isinstance(named, bool) else tuple(map(str, named))
            if all(sign is None or (isinstance(sign, str) and len(sign) == 1) for sign in signs.values()):
                return cls(**signs, **lists, header=header, encoding=str(content.get("encoding") or "utf-8"))  # type: ignore[arg-type]
        except (AttributeError, TypeError):
            pass
        keys = ", ".join(asdict(PLAIN_READING))
        raise ValueError(f"reading={content}: expected {keys}; write it afresh")

    def _check_read(self, name: str, cells: pd.Series) -> None:
        """Raises ValueError for a number with a fraction, or one with a point in its text, that others have read."""
        distinct = [cell for cell in cells.dropna().unique().tolist() if isinstance(cell, float)]
        able = self.thousands != PLAIN_READING.decimal  # whole ones beside missing values: no text has a point
        if odd := next((cell for cell in distinct if not (able and cell.is_integer())), None):
            raise ValueError(
                f"column {name} holds the number {odd:g}, and {self._signs} read other numbers from the same text;"
                " give text (pandas: dtype=str), or the file's path"
            )

    @property
    def _signs(self) -> str:
        thousands = "" if self.thousands is None else f" and data.thousands='{self.thousands}'"
        return f"data.decimal='{self.decimal}'{thousands}"

    @cached_property
    def _missing_numbers(self) -> list[Any]:
        """Numbers that stand for no value, such as -999, whatever they are written like."""
        keys = [key_of(word) for word in self.missing_words]
        return [key for key in keys if isinstance(key, int | float)]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        point = re.escape(self.decimal)
        grouped = "" if self.thousands is None else rf"[0-9]{{1,3}}(?:{re.escape(self.thousands)}[0-9]{{3}})+|"
        digits = rf"(?:(?:{grouped}[0-9]+)(?:{point}[0-9]*)?|{point}[0-9]+)"
        return re.compile(rf"[+-]?(?:{digits}(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity))")


PLAIN_READING = Reading()


def numbered_cells(
    table: pd.DataFrame,
) -> Iterator[tuple[Int64[np.ndarray, "group"], Int64[np.ndarray, "records group"], list[Any]]]:
    """Columns of other kinds than numbers, in groups: their places, the number of each cell, and the different cells.

    Many columns share one group where all their cells are text. The number is −1 where there is no value.

    Raises:
        ValueError: if a cell holds a list or the like.
    """
    import pandas as pd

    others = np.setdiff1d(np.arange(table.shape[1]), _number_columns(table))
    size = max(1, CELLS_AT_ONCE // max(1, len(table)))
    groups = [others[start : start + size] for start in range(0, len(others), size)]
    for group in groups:
        values = table.iloc[:, group].to_numpy(dtype=object)
        # Text alone: 1, 1.0 and True would count as equal, be they of different columns.
        alike = len(group) == 1 or pd.api.types.infer_dtype(values.ravel(), skipna=True) in ("string", "empty")
        for part in [np.arange(len(group))] if alike else np.arange(len(group))[:, None]:
            try:
                codes, distinct = pd.factorize(values[:, part].ravel())
            except TypeError:
                if len(part) > 1:
                    raise
                name = table.columns[group[part[0]]]
                raise ValueError(
                    f"column {name} holds lists or other objects; give one value for each record"
                ) from None
            yield group[part], codes.reshape(len(table), len(part)), list(distinct)


def _number_columns(table: pd.DataFrame) -> Int64[np.ndarray, "numbers"]:
    """Places of the columns whose type is one of numbers, or of truth values."""
    kinds = [isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in table.dtypes]
    return np.flatnonzero(kinds)


def key_of(cell: Any) -> int | float | str | None:
    """A key that cells share which are equal as numbers, or both true, or both false; None for any other word."""
    if isinstance(cell, bool | np.bool_) or (isinstance(cell, str) and cell.lower() in TRUTH_VALUES):
        return str(cell).lower()
    if isinstance(cell, int | np.integer):
        return int(cell)
    if isinstance(cell, str) and re.fullmatch(r"[+-]?[0-9]{1,300}", cell):
        return int(cell)
    number = PLAIN_READING.number(cell)
    if number is None or not np.isfinite(number):
        return None
    number = float(f"{number:.15g}")  # pandas may miss the last bit
    return int(number) if number.is_integer() else number


def quoted(cell: Any) -> str:
    """A cell for an error, cut where it goes on."""
    return repr(as_written(cell) if isinstance(cell, str) else cell)


def text_of(cell: Any) -> str:
    """A cell as a file has it; whole numbers that a missing value beside them turned into floats are whole again."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _plain(cell: Any) -> Any:
    """A cell as text or a number; days as 2020-04-30."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, int) and abs(cell) > sys.float_info.max:
        return math.copysign(math.inf, cell > 0 or -1)
    if isinstance(cell, bool | int | float | np.number | np.bool_):
        return cell
    if isinstance(cell, Decimal):
        return float(cell)
    text = str(cell)
    return text.removesuffix(" 00:00:00") if hasattr(cell, "strftime") else text
