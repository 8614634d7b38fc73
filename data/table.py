"""Your own data as a CSV file: numbers, words, missing values, and the person behind each row."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from palisade.data.columns import Categorical, Columns, UnfittedColumns
from palisade.data.files import BROKEN, opened
from palisade.data.records import Records, name_of
from palisade.data.settings import place
from palisade.data.slices import NO_WORD, Slices, check_columns
from palisade.fields import CheckedFields

if TYPE_CHECKING:
    import pandas as pd

# What counts as missing. "None" is a word in too many tables to be among them.
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]


@dataclass(frozen=True, kw_only=True)
class Table(CheckedFields):
    """A CSV file with a header, UTF-8, separated by commas.

    Args:
        path: of the file; it may be compressed (.gz, .bz2, .xz, or .zip with one file).
        label: the column to predict; its words become the classes.
        person: the column that names the person behind each row; then a person, not a row, is the unit of privacy.
        missing: `impute` fills a missing value with the column's mean or most frequent word; `error` refuses it.
        schema: a YAML or JSON file that describes the columns to use (`Columns.from_json`), so that no number of the
            preprocessing comes from the data. None takes all columns and fits them.
        slices: columns by whose words results are read, of rare ones too; whether a model learns from them is not
            decided here. A column of numbers needs another one beside it that says the band of each.
        name: of the data set; None takes the name of the file.

    Raises:
        ValueError: if `missing` is unknown, one column is to be both label and person, or slices are no list.
    """

    path: str | Path
    label: str
    person: str | None = None
    missing: Literal["error", "impute"] = "error"
    schema: str | Path | None = None
    slices: Sequence[str] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.slices)
        if self.label == self.person:
            raise ValueError(f"person={self.person}: expected another column than the label; name one, or null")

    def load(self) -> Records:
        """Rows as they stand in the file, without label and person.

        Raises:
            FileNotFoundError: if there is no file at `path` or `schema`.
            ValueError: if a file cannot be read, or a column or value is missing.
        """
        schema = None if self.schema is None else _read_schema(self.schema)
        self._check_header()
        if self.slices:
            self.read_slices()  # what is wrong with them is said before anything is trained
        named = [name for name in (self.label, self.person) if name is not None]
        coded = [name for name, column in schema.columns.items() if isinstance(column, Categorical)] if schema else []
        frame = self._read(dtype=dict.fromkeys([*named, *coded], str))  # 007 is a word here, not the number 7
        for key, name in (("label", self.label), ("person", self.person)):
            if name is not None and (missing := frame[name].isna().sum()):
                raise ValueError(f"data.{key}={name} has no value in {missing} rows; remove these rows or fill them")
        rows = frame.drop(columns=named) if schema is None else self._described(frame.drop(columns=named), schema)
        self._check_missing(rows)
        classes = _in_order(frame[self.label].unique())
        return Records(
            name=self.name or name_of(self.path),
            rows=rows,
            labels=frame[self.label].map({word: label for label, word in enumerate(classes)}).to_numpy(dtype=np.int64),
            classes=classes,
            persons=None if self.person is None else frame[self.person].factorize()[0].astype(np.int64),
            preprocessing=schema or self._unfitted(rows),
        )

    def read_slices(self) -> Slices:
        """The slice columns as they stand in the file.

        Raises:
            ValueError: if there is no such column, or it has too many different words.
        """
        self._check_header()
        frame = self._read(dtype=str, usecols=list(self.slices))
        return Slices(words={name: frame[name].fillna(NO_WORD).to_numpy(dtype=str) for name in self.slices})

    def _check_header(self) -> None:
        header = self._read(header=None, nrows=1, dtype=str, keep_default_na=False, na_values=[]).iloc[0].tolist()
        if "" in header:
            raise ValueError(f"data.path={self.path}: column {header.index('') + 1} has no name; name or remove it")
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise ValueError(f"data.path={self.path} has two columns {twice[0]}; rename one of them")
        named = (("label", self.label), ("person", self.person), *(("slices", name) for name in self.slices))
        for key, name in named:
            if name is not None and name not in header:
                raise ValueError(f"data.{key}={name} is no column of {self.path}; choose one of {', '.join(header)}")

    def _read(self, **options: Any) -> pd.DataFrame:
        import pandas as pd

        path = place("data.path", self.path)
        if not path.is_file():
            raise FileNotFoundError(f"data.path={self.path} is no file; give a CSV file")
        defaults = {"skipinitialspace": True, "index_col": False, "low_memory": False}
        missing = {"keep_default_na": False, "na_values": MISSING}
        try:
            with opened(path) as file, warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
                frame = pd.read_csv(file, **(defaults | missing | options))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data.path={self.path} is not UTF-8 ({error.reason} at byte {error.start}); "
                "convert it (iconv -f latin1 -t utf-8)"
            ) from None
        except pd.errors.EmptyDataError:
            raise ValueError(f"data.path={self.path} is empty; give a header and at least 4 rows") from None
        except (ValueError, OSError, pd.errors.ParserWarning, *BROKEN) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"data.path={self.path} cannot be read: {reason}; every row needs as many values as the header"
            ) from None
        if frame.empty:
            raise ValueError(f"data.path={self.path} has a header and no rows; give at least 4")
        return frame

    def _described(self, rows: pd.DataFrame, schema: Columns) -> pd.DataFrame:
        if absent := [name for name in schema.columns if name not in rows]:
            raise ValueError(f"data.schema={self.schema} describes {absent[0]}; choose among {', '.join(rows.columns)}")
        return rows[list(schema.columns)]

    def _check_missing(self, rows: pd.DataFrame) -> None:
        if rows.columns.empty:
            raise ValueError(f"data.path={self.path} has no column but label and person; add what to predict from")
        if self.missing == "error" and (missing := rows.isna().sum()).any():
            name = missing[missing > 0].index[0]
            raise ValueError(f"column {name} has {missing[name]} missing values; fill them, or set data.missing=impute")

    def _unfitted(self, rows: pd.DataFrame) -> UnfittedColumns:
        from pandas.api.types import is_numeric_dtype

        numeric = tuple(name for name in rows if is_numeric_dtype(rows[name]))
        categorical = tuple(name for name in rows if name not in numeric)
        return UnfittedColumns(numeric=numeric, categorical=categorical, missing=self.missing)


def _read_schema(name: str | Path) -> Columns:
    import yaml

    path = place("data.schema", name)
    if not path.is_file():
        raise FileNotFoundError(f"data.schema={name} is no file; give a YAML or JSON file")
    try:
        text = path.read_text(encoding="utf-8")
        return Columns.from_json(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"data.schema={name}: {' '.join(str(error).split())}") from None


def _in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Numbers by value, words by the alphabet."""
    try:
        return tuple(sorted(words, key=float))
    except ValueError:
        return tuple(sorted(words))
