"""The columns of a table as a network's inputs: standardized numbers, one-hot words, and dates.

The numbers and words in here are part of what is released. A schema and a public file say nothing about the records;
statistics of the pool do, and so do those of reference records of the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from palisade.data.categorical import Categorical
from palisade.data.cells import NONE_WORD, PLAIN_READING, Reading, quoted
from palisade.data.dates import Dates, Finite
from palisade.data.table_reader import table_of
from palisade.fields import CheckedFields, Positive

if TYPE_CHECKING:
    import pandas as pd

Statistics = Literal["schema", "public", "reference", "private"]
SCHEMA_OR_PUBLIC = "use a schema (data.schema), or public records (data.reference=<file>)"
STATISTICS_SOURCES = {
    "schema": None,
    "public": None,
    "reference": f"reference records without noise, ε does not cover them; {SCHEMA_OR_PUBLIC}",
    "private": f"the pool without noise, ε does not cover them; {SCHEMA_OR_PUBLIC}",
}
"""Sources of statistics, in words for a statement; None where they reveal nothing about records."""


@dataclass(frozen=True, kw_only=True)
class Numeric(CheckedFields):
    """(value − center) / scale; a missing value counts as `fill`."""

    center: Finite = 0.0
    scale: Positive = 1.0
    fill: float | None = None

    @classmethod
    def fit(cls, name: str, numbers: Float64[np.ndarray, " records"], missing: str) -> Numeric:
        """Mean and standard deviation of numbers, NaN where there is none; zeros and ones stay as they are."""
        present = numbers[~np.isnan(numbers)]
        binary = np.isin(present, (0, 1)).all()
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(present.mean()), float(present.std())
        if not (math.isfinite(mean) and math.isfinite(deviation)):
            raise ValueError(
                f"column {name} has values up to {np.abs(present).max():g}, too large to add up; correct it"
            )
        center, scale = (0.0, 1.0) if binary else (mean, deviation or 1.0)
        fill = float(np.round(mean)) if binary else center
        return cls(center=center, scale=scale, fill=fill if missing == "impute" else None)

    @property
    def width(self) -> int:
        """Number of inputs of the column: 1."""
        return 1

    @property
    def fills(self) -> bool:
        """True if a missing value counts as something."""
        return self.fill is not None


Column = Numeric | Categorical | Dates


class UnknownWordsWarning(UserWarning):
    """Rows hold words that are no category."""


class Encoded(NamedTuple):
    """A table as inputs.

    Args:
        inputs: (records, inputs) numbers.
        unknown: for columns with words that are no category, how many cells each such word has.
    """

    inputs: Float32[np.ndarray, "records inputs"]
    unknown: Mapping[str, Mapping[str, int]]


def unknown_words_line(unknown: Mapping[str, Mapping[str, int]]) -> str | None:
    """Unknown words in one line: how many cells of which columns, with examples; None if there are none."""
    if not unknown:
        return None
    columns = [
        f"{sum(words.values()):,} of {name}, such as {quoted(next(iter(words)))}" for name, words in unknown.items()
    ]
    more = f"; and of {len(columns) - 3} more columns" if len(columns) > 3 else ""
    return f"words that are no category: {'; '.join(columns[:3])}{more}"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table's preprocessing, complete.

    Args:
        columns: by name, in the order of the inputs; other columns of a table are not looked at.
        statistics: where the numbers come from.
        reading: how the table writes its values.
    """

    kind: ClassVar[str] = "columns"
    columns: Mapping[str, Column]
    statistics: Statistics
    reading: Reading = PLAIN_READING

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded record: the widths of all columns, summed."""
        return (sum(column.width for column in self.columns.values()),)

    @property
    def not_covered(self) -> str | None:
        """Sentence for the statement on statistics of private records; None where there are none."""
        source = STATISTICS_SOURCES[self.statistics]
        return source and (
            "the preprocessing: which columns hold numbers was read off all records, and means, deviations, categories"
            f" and fill values were taken from {source}"
        )

    def __call__(self, rows: Any) -> Float32[np.ndarray, "records inputs"]:
        """The inputs of raw rows, in any form of `cells.table_of`; a word that is no category is other, or zeros.

        Raises:
            ValueError: naming the column, if one is absent, or has a value that is missing or no number.
        """
        return self.encode(rows).inputs

    def encode(self, rows: Any) -> Encoded:
        """The inputs of raw rows, and the words in them that are no category.

        Raises:
            ValueError: naming the column, if one is absent, or has a value that is missing or no number.
        """
        cells = self._cells(rows)
        ends = np.cumsum([column.width for column in self.columns.values()])
        inputs = np.empty((len(cells), ends[-1]), dtype=np.float32)
        unknown: dict[str, Mapping[str, int]] = {}
        for (name, column), end in zip(self.columns.items(), ends.tolist(), strict=True):
            part = slice(end - column.width, end)
            if isinstance(column, Categorical):
                inputs[:, part], words = column.look_up(name, cells[name])
                if words:
                    unknown[name] = words
            elif isinstance(column, Dates):
                inputs[:, part] = column.encode(name, cells[name])
        numeric = {name: column for name, column in self.columns.items() if isinstance(column, Numeric)}
        places = [end - 1 for end, name in zip(ends.tolist(), self.columns, strict=True) if name in numeric]
        inputs[:, places] = self._standardized(cells[list(numeric)], list(numeric.values()))
        return Encoded(inputs, unknown)

    def _standardized(self, cells: pd.DataFrame, columns: Sequence[Numeric]) -> Float32[np.ndarray, "records columns"]:
        """Cells of numeric columns in float32; raises ValueError if one exceeds float32 once it is scaled."""
        numbers = self.reading.numbers(cells)
        center, scale = np.array([(column.center, column.scale) for column in columns]).reshape(-1, 2).T
        fills = np.array([np.nan if column.fill is None else column.fill for column in columns])
        with np.errstate(over="ignore"):
            inputs = ((np.where(np.isnan(numbers), fills, numbers) - center) / scale).astype(np.float32)
        if (large := np.isinf(inputs).any(axis=0)).any():
            place = int(large.argmax())
            raise ValueError(
                f"column {cells.columns[place]} exceeds float32 with center={center[place]:g},"
                f" scale={scale[place]:g}; choose other ones"
            )
        return inputs

    def _cells(self, rows: Any) -> pd.DataFrame:
        cells = self.reading.cells(table_of(rows, self.columns, self.reading)[list(self.columns)])
        nones = (cells == NONE_WORD).any()
        for name in cells.columns[nones]:  # a missing value, as for pandas, unless it is a category
            column = self.columns[name]
            if not (isinstance(column, Categorical) and NONE_WORD in column.categories):
                cells[name] = cells[name].mask(cells[name] == NONE_WORD)
        missing = cells.isna().sum()
        for name in cells.columns[missing > 0]:
            if not self.columns[name].fills:
                such = ", None among them" if nones[name] else ""
                raise ValueError(
                    f"column {name} has {missing[name]} missing values{such}; fill them, train with"
                    " data.missing=impute, or name its `fill` in a schema"
                )
        return cells

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        columns = {name: asdict(column) for name, column in self.columns.items()}
        return {
            "kind": self.kind,
            "statistics": self.statistics,
            "reading": self.reading.to_json(),
            "columns": columns,
        }

    @classmethod
    def from_json(cls, content: Any) -> Columns:
        """Reads what `to_json` wrote, or a schema: `{columns: {age: {center: 40, scale: 15}, sex: {categories: […]}}}`.

        Raises:
            ValueError: naming the column whose entry is wrong.
        """
        if (
            not isinstance(content, Mapping)
            or not isinstance(content.get("columns"), Mapping)
            or not content["columns"]
        ):
            raise ValueError("there is no list of columns; write `columns:` with an entry for each of them")
        columns = {str(name): _column(str(name), entry or {}) for name, entry in content["columns"].items()}
        if (statistics := content.get("statistics", "schema")) not in STATISTICS_SOURCES:
            raise ValueError(f"statistics={statistics}: expected one of {', '.join(STATISTICS_SOURCES)}; leave it out")
        return cls(columns=columns, statistics=statistics, reading=Reading.from_json(content.get("reading") or {}))


@dataclass(frozen=True, kw_only=True)
class UnfittedColumns:
    """Knowledge of a table before anyone looks at its values.

    Args:
        numeric: names of the columns of numbers.
        categorical: names of the columns of words.
        dates: the format of each column of dates.
        missing: `impute` fills with the mean or the most frequent word; `error` refuses.
        rare: words of a private table that fewer persons share are one category.
        reading: how the table writes its values.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    dates: Mapping[str, str] = field(default_factory=dict)
    missing: Literal["error", "impute"] = "error"
    rare: int = 1
    reading: Reading = PLAIN_READING

    def fit(
        self,
        rows: pd.DataFrame,
        statistics: Literal["public", "reference", "private"],
        persons: Int64[np.ndarray, " records"] | None = None,
    ) -> Columns:
        """Takes means, deviations, categories and fill values from the rows that it may look at.

        Args:
            rows: those rows.
            statistics: whose they are.
            persons: the person of each row; None: each row is another one's.

        Raises:
            ValueError: if a column has no value, or too many different words.
        """
        used = {*self.numeric, *self.categorical, *self.dates}
        cells = self.reading.cells(rows[[name for name in rows if name in used]])
        for name in cells.columns[cells.isna().all()]:
            raise ValueError(f"column {name} has no value to learn from; leave it out with data.drop=[{name}]")
        numbers = dict(zip(self.numeric, self.reading.numbers(cells[list(self.numeric)]).T, strict=True))
        rare = 1 if statistics == "public" else self.rare
        columns: dict[str, Column] = {}
        for name in map(str, cells):
            if name in numbers:
                columns[name] = Numeric.fit(name, np.ascontiguousarray(numbers[name]), self.missing)
            elif name in self.dates:
                columns[name] = Dates.fit(name, cells[name], self.dates[name], self.missing)
            else:
                columns[name] = Categorical.fit(name, cells[name], self.missing, rare, persons)
        return Columns(columns=columns, statistics=statistics, reading=self.reading)

    def to_json(self) -> dict[str, Any]:
        """Plain values that enter the fingerprint of the data."""
        return asdict(self)


def _column(name: str, entry: Any) -> Column:
    try:
        if "categories" in entry:
            words = entry["categories"]
            if not isinstance(words, list | tuple) or any(isinstance(word, bool | float) for word in words):
                raise ValueError("categories is a list of words; put yes, no, true, false and 1.0 in quotes")
            single = {key: None if entry.get(key) is None else str(entry[key]) for key in ("fill", "other")}
            return Categorical(**{**entry, "categories": tuple(map(str, words)), **single})
        if "date" in entry:
            return Dates(**entry)
        numbers: dict[str, Any] = {key: value if value is None else float(value) for key, value in entry.items()}
        return Numeric(**numbers)
    except (TypeError, ValueError, AttributeError) as error:
        keys = "center, scale, fill or categories, fill, other or date, center, scale, fill"
        raise ValueError(f"column {name}: {entry} is no description of a column ({error}); use {keys}") from None
