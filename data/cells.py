"""Cells of tables: text until a column says what they are, for training, predictions, audits and endpoints alike."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from palisade.data.files import READER_ERRORS, opened
from palisade.data.settings import place
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
ROW_FORMS = "a DataFrame, a dict, a list of dicts, or the path of a CSV file"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The way in which a table writes its values.

    Args:
        missing_words: words for no value, besides `MISSING_WORDS`.
        decimal: the sign before the fraction of a number.
        thousands: the sign between groups of three digits; None: there is none.
        symbols: signs beside numbers that are left out, such as $ and %.
    """

    missing_words: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str | None = None
    symbols: tuple[str, ...] = ()

    def cells(self, name: str, values: pd.Series) -> pd.Series:
        """A column's cells: text without blanks around it, numbers as they are, and NaN where there is no value.

        Args:
            name: of the column, for errors.
            values: as they stand in a file, or of any type that pandas has.

        Raises:
            ValueError: if a cell holds a list or the like.
        """
        import pandas as pd

        if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
            return values.mask(values.isin(self._missing_numbers)) if self._missing_numbers else values
        try:
            codes, distinct = pd.factorize(values.astype(object))
        except TypeError:
            raise ValueError(f"column {name} holds lists or other objects; give one value for each record") from None
        missing = {*MISSING_WORDS, *self.missing_words}
        plain = np.empty(len(distinct) + 1, dtype=object)  # the last one is that of code −1, no value
        plain[:-1] = [_plain(cell) for cell in distinct]
        plain[-1] = np.nan
        for k, cell in enumerate(plain[:-1]):
            if cell in missing or (self._missing_numbers and key_of(cell) in self._missing_numbers):
                plain[k] = np.nan
        return pd.Series(plain[codes], index=values.index, name=values.name, dtype=object)

    def number(self, cell: Any) -> float | None:
        """The number that a cell holds, true and false as 1 and 0; None if it holds none."""
        if not isinstance(cell, str):
            return float(cell) if isinstance(cell, int | float | np.number | np.bool_) else None
        text = cell
        for symbol in self.symbols:
            text = text.removeprefix(symbol).removesuffix(symbol).strip()
        if self._pattern.fullmatch(text):
            return float(text.replace(self.thousands or "\0", "").replace(self.decimal, "."))
        return TRUTH_VALUES.get(text.lower())

    def numbers(self, name: str, cells: pd.Series) -> Float64[np.ndarray, " records"]:
        """A column's cells as numbers, NaN where there is no value.

        Raises:
            ValueError: if a cell holds no number, an infinite one, or one that was read by other signs than these.
        """
        import pandas as pd

        if self.decimal != PLAIN_READING.decimal or self.thousands == PLAIN_READING.decimal:
            self._check_read(name, cells)
        if isinstance(cells.dtype, np.dtype) and cells.dtype.kind in "biuf":
            numbers = cells.to_numpy(dtype=np.float64)
        else:
            codes, distinct = pd.factorize(cells)
            parsed = [self.number(cell) for cell in distinct]
            if None in parsed:
                odd = parsed.index(None)
                row = int((codes == odd).argmax()) + 1
                raise ValueError(
                    f"column {name} has {quoted(distinct[odd])} among its numbers, in row {row}; correct it"
                )
            numbers = np.array([*parsed, np.nan], dtype=np.float64)[codes]
        if np.isinf(numbers).any():
            raise ValueError(f"column {name} has an infinite value; correct it")
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
            if all(sign is None or (isinstance(sign, str) and len(sign) == 1) for sign in signs.values()):
                return cls(**signs, **lists)  # type: ignore[arg-type]
        except (AttributeError, TypeError):
            pass
        raise ValueError(f"reading={content}: expected missing_words, decimal, thousands, symbols; write it afresh")

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


def read_table(key: str, path: str | Path) -> pd.DataFrame:
    """A CSV file as text: UTF-8, separated by commas, with a header, and compressed or not.

    Args:
        key: of the setting that names the file, for errors.
        path: of the file; it may be compressed (.gz, .bz2, .xz, or .zip with one file).

    Returns:
        Every cell as it is written; the names of columns without blanks around them, even if two are alike.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    import pandas as pd

    setting, file = f"{key}={path}", place(key, path)
    if not file.is_file():
        raise FileNotFoundError(f"{setting} is no file; give a CSV file")
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "na_values": []}
    try:
        with opened(file) as content:
            frame = pd.read_csv(content, skipinitialspace=True, low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{setting} is not UTF-8 ({error.reason} at byte {error.start}); convert it (iconv -f latin1 -t utf-8)"
        ) from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{setting} is empty; give a header and at least 4 rows") from None
    except (ValueError, OSError, *READER_ERRORS) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{setting} cannot be read: {reason}; every row needs as many values as the header") from None
    if len(frame) < 2:
        raise ValueError(f"{setting} has a header and no rows; give at least 4")
    header = ["" if isinstance(name, float) else name.strip() for name in frame.iloc[0]]
    return frame.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)


def table_of(rows: Any, names: Iterable[str] = ()) -> pd.DataFrame:
    """Rows in any of the forms that a release takes, as a table.

    Args:
        rows: a DataFrame; a dict of columns, or of one record's values; a list of dicts; or the path of a CSV file.
        names: columns that the table must have.

    Raises:
        FileNotFoundError: if there is no file at the path.
        ValueError: if it is something else, or a column is absent, be it from one dict of a list.
    """
    import pandas as pd

    names = list(names)
    if isinstance(rows, str | PathLike):
        table = read_table("rows", Path(rows))
    elif isinstance(rows, pd.DataFrame):
        table = rows
    elif isinstance(rows, Mapping):
        table = pd.DataFrame(_columns(rows), dtype=object)
    elif isinstance(rows, Sequence) and rows and all(isinstance(row, Mapping) for row in rows):
        for keys in dict.fromkeys(map(tuple, rows)):
            _check_columns("one of the rows has", keys, names)
        table = pd.DataFrame(list(rows), dtype=object)
    else:
        raise ValueError(f"rows are of type {type(rows).__name__}; give {ROW_FORMS}")
    table = table.rename(columns=lambda name: str(name).strip())
    _check_columns("rows have", table, names)
    return table


def _check_columns(which: str, columns: Iterable[Any], names: Sequence[str]) -> None:
    own = {str(name).strip() for name in columns}
    if absent := [name for name in names if name not in own]:
        raise ValueError(f"{which} no column {', '.join(absent)}; give {', '.join(names)}")


def column_of(table: pd.DataFrame, name: str) -> pd.Series:
    """The column of a name.

    Raises:
        ValueError: if there are two.
    """
    column = table[name]
    if column.ndim > 1:
        raise ValueError(f"rows have two columns {name}; rename one of them")
    return column


def _columns(rows: Mapping[Any, Any]) -> dict[Any, Any]:
    lists = {name: list(values) for name, values in rows.items() if _is_list(values)}
    if not rows or len({len(values) for values in lists.values()}) > 1 or 0 < len(lists) < len(rows):
        raise ValueError(
            "rows are a dict of unlike parts; give a list of one length for each column, or one value each"
        )
    return lists or {name: [value] for name, value in rows.items()}


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple) or getattr(values, "ndim", 0) == 1


def _plain(cell: Any) -> Any:
    """A cell as text or a number; days as 2020-04-30."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, int) and abs(cell) > sys.float_info.max:
        return math.copysign(math.inf, cell > 0 or -1)
    if isinstance(cell, bool | int | float | np.number | np.bool_):
        return cell
    text = str(cell)
    return text.removesuffix(" 00:00:00") if hasattr(cell, "strftime") else text
