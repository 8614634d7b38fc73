"""The columns of a table as a network's inputs: standardized numbers and one-hot words.

The numbers and words in here are part of what is released. A schema says nothing about the records; statistics of the
pool do, and so do those of reference records, unless these are public.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 1000
SOURCES = {
    "schema": None,
    "reference": "reference records without noise, ε does not cover them; use a schema (data.schema)",
    "private": "the pool without noise, ε does not cover them; use a schema (data.schema), or reference records"
    " (split.reference=0.1) that are public",
}
"""Sources of statistics, in words for a statement; None where they tell nothing about records."""


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """(value − center) / scale; a missing value counts as `fill`."""

    center: float = 0.0
    scale: float = 1.0
    fill: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and 0 < self.scale < math.inf):
            raise ValueError(f"center={self.center}, scale={self.scale}: both must be finite and scale above 0")

    @classmethod
    def fit(cls, name: str, values: pd.Series, missing: str) -> Numeric:
        """Mean and standard deviation; a column of zeros and ones stays as it is."""
        numbers = _numbers(name, values)
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

    def encode(self, name: str, values: pd.Series) -> Float32[np.ndarray, "records 1"]:
        """A column's values, standardized in float32.

        Args:
            name: of the column, for errors.
            values: the column as it was read.

        Raises:
            ValueError: if a value is no number, or exceeds float32 once it is scaled.
        """
        numbers = _numbers(name, values)
        if self.fill is not None:
            numbers = np.where(np.isnan(numbers), self.fill, numbers)
        with np.errstate(over="ignore"):
            inputs = ((numbers - self.center) / self.scale).astype(np.float32)
        if np.isinf(inputs).any():
            raise ValueError(
                f"column {name} exceeds float32 with center={self.center:g}, scale={self.scale:g}; choose other ones"
            )
        return inputs[:, None]


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """One input per category; an unknown word is all zeros, a missing one counts as `fill`."""

    categories: tuple[str, ...]
    fill: str | None = None

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories={list(self.categories)} must be distinct and at least one")
        if self.fill is not None and self.fill not in self.categories:
            raise ValueError(f"fill={self.fill} is no category; choose one of {', '.join(self.categories)}")

    @classmethod
    def fit(cls, name: str, values: pd.Series, missing: str) -> Categorical:
        """All words in alphabetical order; the most frequent one fills."""
        counts = _words(values).value_counts().sort_index()
        if len(counts) > MAX_CATEGORIES:
            raise ValueError(
                f"column {name} has {len(counts)} different words, at most {MAX_CATEGORIES} are encoded; "
                "leave it out, or list those that matter in data.schema"
            )
        return cls(categories=tuple(counts.index), fill=str(counts.idxmax()) if missing == "impute" else None)

    @property
    def width(self) -> int:
        """Number of inputs of the column: one per category."""
        return len(self.categories)

    def encode(self, name: str, values: pd.Series) -> Float32[np.ndarray, "records categories"]:
        """A column's values, one-hot in float32.

        Args:
            name: of the column, which no error needs here.
            values: the column as it was read.
        """
        import pandas as pd

        words = _words(values) if self.fill is None else _words(values).fillna(self.fill)
        codes = pd.Index(self.categories).get_indexer(words)  # −1 for an unknown word
        return np.asarray(codes[:, None] == np.arange(self.width), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table's preprocessing, complete.

    Args:
        columns: by name, in the order of the inputs; other columns of a table are not looked at.
        statistics: where the numbers come from.
    """

    kind: ClassVar[str] = "columns"
    columns: Mapping[str, Numeric | Categorical]
    statistics: Literal["schema", "reference", "private"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded record: the widths of all columns, summed."""
        return (sum(column.width for column in self.columns.values()),)

    @property
    def not_covered(self) -> str | None:
        """Sentence for the statement on statistics of private records; None where there are none."""
        source = SOURCES[self.statistics]
        return source and (
            "the preprocessing: which columns hold numbers was read off all records, and means, deviations, categories"
            f" and fill values were taken from {source}"
        )

    def __call__(self, rows: pd.DataFrame) -> Float32[np.ndarray, "records inputs"]:
        """The inputs of raw rows.

        Raises:
            ValueError: naming the column, if one is absent, or has a value that is missing or no number.
        """
        if absent := [name for name in self.columns if name not in rows]:
            raise ValueError(f"rows have no column {', '.join(absent)}; give {', '.join(self.columns)}")
        for name, column in self.columns.items():
            if column.fill is None and (missing := rows[name].isna().sum()):
                raise ValueError(
                    f"column {name} has {missing} missing values; fill them, or name its `fill` in a schema"
                )
        return np.concatenate([column.encode(name, rows[name]) for name, column in self.columns.items()], axis=1)

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        columns = {name: asdict(column) for name, column in self.columns.items()}
        return {"kind": self.kind, "statistics": self.statistics, "columns": columns}

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
        if (statistics := content.get("statistics", "schema")) not in ("schema", "reference", "private"):
            raise ValueError(f"statistics={statistics} is unknown; leave it out, or write schema, reference or private")
        return cls(columns=columns, statistics=statistics)


@dataclass(frozen=True, kw_only=True)
class UnfittedColumns:
    """Knowledge of a table before anyone looks at its values.

    Args:
        numeric: names of the columns of numbers.
        categorical: names of the columns of words.
        missing: `impute` fills with the mean or the most frequent word; `error` refuses.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    missing: Literal["error", "impute"] = "error"

    def fit(self, rows: pd.DataFrame, statistics: Literal["reference", "private"]) -> Columns:
        """Takes means, deviations, categories and fill values from the rows that it may look at.

        Raises:
            ValueError: if a column has no value, or too many different words.
        """
        columns: dict[str, Numeric | Categorical] = {}
        for name in rows:
            if name in (*self.numeric, *self.categorical):
                if rows[name].isna().all():
                    raise ValueError(
                        f"column {name} has no value to learn from; leave it out or describe it in data.schema"
                    )
                kind = Numeric if name in self.numeric else Categorical
                columns[str(name)] = kind.fit(str(name), rows[name], self.missing)
        return Columns(columns=columns, statistics=statistics)

    def to_json(self) -> dict[str, Any]:
        """Plain values that enter the fingerprint of the data."""
        return asdict(self)


def _column(name: str, entry: Any) -> Numeric | Categorical:
    try:
        if "categories" in entry:
            words = entry["categories"]
            if not isinstance(words, list | tuple) or any(isinstance(word, bool | float) for word in words):
                raise ValueError("categories is a list of words; put yes, no, true, false and 1.0 in quotes")
            fill = None if entry.get("fill") is None else str(entry["fill"])
            return Categorical(**{**entry, "categories": tuple(map(str, words)), "fill": fill})
        numbers: dict[str, Any] = {key: value if value is None else float(value) for key, value in entry.items()}
        return Numeric(**numbers)
    except (TypeError, ValueError, AttributeError) as error:
        keys = "center, scale, fill or categories, fill"
        raise ValueError(f"column {name}: {entry} is no description of a column ({error}); use {keys}") from None


def _numbers(name: str, values: pd.Series) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    if (wrong := numbers.isna() & values.notna()).any():
        raise ValueError(f"column {name} has {values[wrong].iloc[0]!r} among its numbers; correct it")
    if np.isinf(numbers).any():
        raise ValueError(f"column {name} has an infinite value; correct it")
    return np.asarray(numbers)


def _words(values: pd.Series) -> pd.Series:
    if values.dtype.kind == "f" and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # a missing value turned whole numbers into floats; 1 is not the word "1.0"
    return values.astype("string")
