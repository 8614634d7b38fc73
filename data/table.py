"""Your own data as a table: numbers, words, missing values, and the person behind each row."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from palisade.data.categorical import Categorical
from palisade.data.cells import NONE_WORD, PLAIN_READING, Reading, key_of, quoted
from palisade.data.column_kinds import ColumnKinds
from palisade.data.columns import Columns, UnfittedColumns
from palisade.data.labels import classes_of, is_numbered
from palisade.data.origins import Origins
from palisade.data.records import Records, name_of
from palisade.data.settings import place
from palisade.data.slices import NO_WORD, Slices, check_columns
from palisade.data.table_reader import check_header, lines_of_rows, read_table, repeated
from palisade.fields import CheckedFields, Count, nearest, remedy

if TYPE_CHECKING:
    import pandas as pd

Sign = Annotated[str, Field(min_length=1, max_length=1, pattern=r"[^0-9A-Za-z+\-]"), remedy("choose e.g. ','")]
Separator = Annotated[str, Field(pattern=r"^([^0-9A-Za-z\n\"]|tab)$"), remedy("choose e.g. ';' or tab")]
Names = Sequence[str]
MAX_NUMERIC_CLASSES, CLASSES_SHARE = 20, 0.05
"""Different numbers, and their share of the records, beyond which a label is a quantity."""


@dataclass(frozen=True, kw_only=True)
class Table(CheckedFields):
    """A table in a file of text, Parquet, Feather or Excel.

    Args:
        path: of the file; it may be packed (.gz, .bz2, .xz, or .zip with one file).
        label: the column to predict; its words become the classes.
        person: the column that names the person behind each row; then a person, not a row, is the unit of privacy.
        missing: `impute` fills a missing value with the column's mean or most frequent word; `error` refuses it.
        schema: a YAML or JSON file that describes the columns to use (`Columns.from_json`), so that no number of the
            preprocessing comes from the data. None takes all columns and fits them.
        slices: columns by whose words results are read, of rare ones too; whether a model learns from them is not
            decided here. A column of numbers needs another one beside it that says the band of each.
        name: of the data set; None takes the name of the file.
        drop: columns that are left out.
        categorical: columns that are words, such as codes that look like numbers.
        numeric: columns that are numbers, though they look like identifiers.
        dates: columns that are dates: year, month, weekday, and days since 1970.
        rare: words that fewer persons share become one category, and enter no card; a class of fewer is refused, unless
            the classes are numbered 0, 1, …
        missing_words: words for no value, besides those of pandas and `?`.
        decimal: the sign before the fraction of a number.
        thousands: the sign between groups of three digits; None: there is none.
        symbols: signs beside numbers that are left out, such as $ and %.
        separator: the sign between the columns of a text file, or `tab`.
        header: whether the first row of a text file names the columns; false calls them column_1, column_2, …; or a
            list of their names.
        encoding: of a text file.
        test: a file with the same columns, all of whose records are for testing; written as `path` is.
        reference: a file of public records with the same columns, a person column or none; they are the reference
            records, and means, deviations and categories come from them. Its rows must not be those of `path`.

    Raises:
        ValueError: if a setting is out of range, one column is to be two things, or slices are no list.
    """

    path: str | Path
    label: str
    person: str | None = None
    missing: Literal["error", "impute"] = "error"
    schema: str | Path | None = None
    slices: Sequence[str] = ()
    name: str | None = None
    drop: Names = ()
    categorical: Names = ()
    numeric: Names = ()
    dates: Names = ()
    rare: Count = 10
    missing_words: Names = ()
    decimal: Sign = "."
    thousands: Sign | None = None
    symbols: Names = ()
    separator: Separator = ","
    header: bool | Names = True
    encoding: str = "utf-8"
    test: str | Path | None = None
    reference: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.slices)
        if self.label == self.person:
            raise ValueError(f"person={self.person}: expected another column than the label; name one, or null")
        if self.thousands == self.decimal:
            raise ValueError(f"thousands={self.thousands}: expected another sign than decimal; choose e.g. ','")
        roles = [self.label, self.person, *self.drop, *self.categorical, *self.numeric, *self.dates]
        if twice := [name for name in roles if name is not None and roles.count(name) > 1]:
            places = "label, person, drop, categorical, numeric and dates"
            raise ValueError(
                f"drop={_written(self.drop)}: expected {twice[0]} in one of {places} alone; remove it from one"
            )
        if self.schema is not None and (chosen := [*self.categorical, *self.numeric, *self.dates]):
            raise ValueError(
                f"schema={self.schema}: expected no other description of {chosen[0]}; remove one of the two"
            )

    def load(self) -> Records:
        """Rows as they stand in the file, without label and person.

        Raises:
            FileNotFoundError: if there is no file at `path`, `schema` or `reference`.
            ValueError: if a file cannot be read, a column or value is missing, or a class has too few persons.
        """
        schema = None if self.schema is None else self._read_schema(self.schema)
        frame, tested, public = self._frame()
        if self.slices:
            self._slices(frame)  # what is wrong with them is said before anything is trained
        named = {key: name for key, name in (("label", self.label), ("person", self.person)) if name is not None}
        for key, name in named.items():
            if missing := frame[name].isna().sum():
                raise ValueError(f"data.{key}={name}: expected a value in each row; remove or fill {missing} rows")
        rows = frame.drop(columns=[*named.values(), *self.drop])
        if schema is not None:
            rows = self._described(rows, schema)
        self._check_missing(rows)
        classes, labels = classes_of(f"data.label={self.label}", frame[self.label], self.reading)
        self._check_is_classified(classes, len(frame))
        persons = None if self.person is None else frame[self.person].factorize()[0].astype(np.int64)
        records = Records(
            name=self.name or name_of(self.path),
            rows=rows,
            labels=labels,
            classes=classes,
            persons=persons,
            preprocessing=schema or self._unfitted(rows.iloc[:public], None if persons is None else persons[:public]),
            test=None if self.test is None else np.arange(tested, public),
            reference=None if self.reference is None else np.arange(public, len(frame)),
        )
        self._check_classes(records, public)
        return records

    def read_rows(self) -> pd.DataFrame:
        """The rows of `path` as they are written, with all columns."""
        return read_table("data.path", self.path, self.reading)

    def read_origins(self) -> Origins:
        """Words of the person column, and the lines of `path`; rows of other files have none."""
        frame, own, _ = self._frame()
        lines = lines_of_rows("data.path", self.path, self.reading, own)
        persons = None if self.person is None else [str(word) for word in frame[self.person]]
        return Origins(persons=persons, lines=lines)

    def read_slices(self) -> Slices:
        """The slice columns as they stand in the file.

        Raises:
            ValueError: if there is no such column, or it has too many different words.
        """
        return self._slices(self._frame()[0])

    def _slices(self, frame: pd.DataFrame) -> Slices:
        return Slices(words={name: frame[name].fillna(NO_WORD).to_numpy(dtype=str) for name in self.slices})

    def _frame(self) -> tuple[pd.DataFrame, int, int]:
        """The cells of all files, NaN where there is no value, and the rows from which on they are of `test` and of
        `reference`."""
        import pandas as pd

        own = self._read()
        tested = own.iloc[:0] if self.test is None else self._read_beside("data.test", self.test, own)
        public = own.iloc[:0]
        if self.reference is not None:
            private = pd.concat([own, tested])
            public = self._read_beside("data.reference", self.reference, private)
            aside = [*self.drop, *([] if self.person is None else [self.person])]
            for unseen in (aside, [*aside, self.label]):  # a file of records with other labels is no public one either
                check_public(
                    f"data.reference={self.reference}", private.drop(columns=unseen), public.drop(columns=unseen)
                )
        return pd.concat([own, tested, public], ignore_index=True), len(own), len(own) + len(tested)

    def _read(self) -> pd.DataFrame:
        frame = read_table("data.path", self.path, self.reading)
        header = list(frame)
        if "" in header:
            raise ValueError(f"data.path={self.path}: column {header.index('') + 1} has no name; name or remove it")
        if twice := repeated(header):
            raise ValueError(f"data.path={self.path}: two columns are called {twice}; rename one of them")
        lists = {"slices": self.slices, "drop": self.drop, "categorical": self.categorical, "numeric": self.numeric}
        lists |= {"dates": self.dates, "person": () if self.person is None else (self.person,)}
        for key, name in (("label", self.label), *((key, name) for key, names in lists.items() for name in names)):
            if name not in header:
                check_header("data.path", self.path, frame, self.reading)
                raise ValueError(f"data.{key}={name}: expected a column of {self.path}; {nearest(name, header)}")
        return self.reading.cells(frame)

    def _read_beside(self, key: str, path: str | Path, own: pd.DataFrame) -> pd.DataFrame:
        """The cells of a file of other persons, with the columns of the main one.

        Raises:
            ValueError: if it is the same file, lacks a column, or holds a person of the others.
        """
        setting = f"{key}={path}"
        other = read_table(key, path, self.reading)
        if place(key, path).samefile(place("data.path", self.path)):
            share = key.replace("data", "split")
            raise ValueError(f"{setting}: expected another file than data.path; set {share}=0.1 instead")
        for name in own:
            if name not in other:
                if name != self.person and name not in self.drop:
                    raise ValueError(f"{setting}: expected the columns of data.path, and {name} is none; add it")
                other[name] = [f"{key} {row}" for row in range(len(other))]
        other = self.reading.cells(other[list(own)])
        if self.person is not None and (both := set(other[self.person]) & set(own[self.person])):
            raise ValueError(f"{setting}: {len(both)} of its persons are in data.path too; remove their records")
        return other

    @property
    def reading(self) -> Reading:
        """The way in which the files are written."""
        lists = {"missing_words": tuple(self.missing_words), "symbols": tuple(self.symbols)}
        header = self.header if isinstance(self.header, bool) else tuple(self.header)
        return Reading(
            decimal=self.decimal, thousands=self.thousands, encoding=self.encoding, header=header,
            separator="\t" if self.separator == "tab" else self.separator, **lists,
        )  # fmt: skip

    def _described(self, rows: pd.DataFrame, schema: Columns) -> pd.DataFrame:
        if absent := [name for name in schema.columns if name not in rows]:
            columns = ", ".join(rows.columns)
            raise ValueError(f"data.schema={self.schema}: expected columns out of {columns}; remove {absent[0]}")
        return rows[list(schema.columns)]

    def _check_missing(self, rows: pd.DataFrame) -> None:
        if rows.columns.empty:
            raise ValueError(
                f"data.path={self.path}: there is no column but label and person; add columns to predict from"
            )
        if self.missing == "error" and (missing := rows.isna().sum()).any():
            name = missing[missing > 0].index[0]
            raise ValueError(f"column {name} has {missing[name]} missing values; fill them, or set data.missing=impute")

    def _check_is_classified(self, classes: Sequence[str], records: int) -> None:
        """Raises ValueError for a column of quantities."""
        numbers = [self.reading.number(word) for word in classes]
        present = [number for number in numbers if number is not None]
        is_numeric = len(present) == len(classes) > MAX_NUMERIC_CLASSES
        if is_numeric and (any(number % 1 for number in present) or len(classes) > CLASSES_SHARE * records):
            raise ValueError(
                f"data.label={self.label}: expected classes, and it holds {len(classes):,} different numbers, a"
                " regression target, for which there is no support; name a column of classes, or cut it into bands"
            )

    def _check_classes(self, records: Records, own: int) -> None:
        """Raises ValueError if a class of the private rows that is no class of public ones has few persons."""
        if is_numbered(records.classes):
            return
        assert records.labels is not None
        labels, persons = records.labels[:own], np.arange(own) if records.persons is None else records.persons[:own]
        private = np.setdiff1d(labels, records.labels[own:]).tolist()
        holders = {number: len(np.unique(persons[labels == number])) for number in private}
        fewest = min(private, key=holders.__getitem__, default=None)
        if fewest is not None and holders[fewest] < self.rare:
            noun = "rows" if self.person is None else "persons"
            raise ValueError(
                f"data.label={self.label}: expected classes of at least data.rare={self.rare} {noun}, since a card"
                f" lists their words, and {quoted(records.classes[fewest])} has {holders[fewest]}; merge it with"
                f" another one, or set data.rare={holders[fewest]}"
            )

    def _unfitted(self, rows: pd.DataFrame, persons: Int64[np.ndarray, " records"] | None) -> UnfittedColumns:
        lists = {"categorical": self.categorical, "numeric": self.numeric, "dates": self.dates, "dropped": self.drop}
        kinds = ColumnKinds(rows=rows, persons=persons, reading=self.reading, **lists)
        kinds.check()
        return UnfittedColumns(
            numeric=kinds.numbers,
            categorical=kinds.words,
            dates=kinds.formats,
            missing=self.missing,
            rare=self.rare,
            reading=self.reading,
        )

    def _read_schema(self, name: str | Path) -> Columns:
        import yaml

        path = place("data.schema", name)
        if not path.is_file():
            raise FileNotFoundError(f"data.schema={name}: expected a YAML or JSON file, and there is none; correct it")
        try:
            text = path.read_text(encoding="utf-8")
            schema = Columns.from_json(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
            for column, described in schema.columns.items():
                if (
                    isinstance(described, Categorical)
                    and NONE_WORD in described.categories
                    and described.fill not in (None, NONE_WORD)
                ):
                    raise ValueError(
                        f"column {column}: fill={described.fill}: expected None, since pandas takes this category for a"
                        " missing value; set fill: None"
                    )
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"data.schema={name}: {' '.join(str(error).split())}") from None
        own = self.reading
        return schema if own == PLAIN_READING else replace(schema, reading=own)


def _written(names: Names) -> str:
    return f"[{','.join(names)}]"


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
    keys = {cell: str(cell).casefold() if (key := key_of(cell)) is None else key for cell in cells.dropna().unique()}
    return cells.map(keys).astype(object).fillna("").tolist()


def _chance(rows: int, others: Counter[tuple[Any, ...]]) -> float:
    """The most of so many rows that equal one of another table by chance."""
    repeated = sum(count for count in others.values() if count > 1)
    total = others.total()
    share = min(1.0, (repeated + UNSEEN_ROWS) / total)
    deviation = math.sqrt(rows * share * (1 - share) * (1 + rows / total))  # of both tables
    return rows * share + CHANCE_DEVIATIONS * deviation + CHANCE_ROWS
