"""Values that a column can have: what no record can be is not answered, such as a step of a search for the boundary.

Ranges come from a schema alone; whole numbers and words from a schema or from reference records, never from members:
a refusal would tell what members have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from palisade.data.categorical import Categorical
from palisade.data.cells import MISSING_WORDS, text_of
from palisade.data.columns import Columns
from palisade.data.settings import place, validated
from palisade.fields import CheckedFields, as_written
from palisade.serving.bodies import RefusedError, RowForm
from palisade.serving.reference import reference_rows

MIN_REFERENCE_RECORDS = 50
"""Fewer records say too little about whole numbers and words."""
ALL_VALUES = "values"
"""Name in a schema under which stands what holds of every value of an array."""


@dataclass(frozen=True, kw_only=True)
class Values(CheckedFields):
    """Values of one column; what is None is not looked at.

    Args:
        low: the smallest.
        high: the largest.
        whole: they are whole numbers.
        words: these alone.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    words: Sequence[str] | None = None

    def allow(self, number: float) -> bool:
        """True for a number that the column can have."""
        is_low = self.low is not None and number < self.low
        is_high = self.high is not None and number > self.high
        return not (is_low or is_high or (self.whole and not float(number).is_integer()))


@dataclass(frozen=True, kw_only=True)
class DomainSettings(CheckedFields):
    """Sources of a domain.

    Args:
        schema: path of a schema of values, or None.
        reference: path of reference records, or None.
    """

    schema: str | None = None
    reference: str | None = None


class TableDomain:
    """Values of a table's columns.

    Args:
        form: of the rows.
        schema: values by column, from a schema.
        rows: reference records.
    """

    def __init__(self, form: RowForm, schema: Mapping[str, Values], rows: Sequence[Mapping[str, Any]]) -> None:
        assert isinstance(form.step, Columns)
        self._reading, self._values = form.step.reading, {}
        for name, column in form.step.columns.items():
            values = schema.get(name, Values())
            cells = [row[name] for row in rows if row[name] not in MISSING_WORDS]
            if isinstance(column, Categorical):
                known = {*column.categories, *map(text_of, cells), *filter(None, (column.fill, column.other))}
                words = values.words if values.words is not None else sorted(known) if rows else None
                self._values[name] = Values(words=words)
            else:
                numbers = [self._reading.number(cell) for cell in cells]
                learned = bool(numbers) and all(number is not None and number.is_integer() for number in numbers)
                self._values[name] = Values(low=values.low, high=values.high, whole=values.whole or learned)
        self._words = {name: frozenset(values.words or ()) for name, values in self._values.items()}

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises RefusedError for a value that its column cannot have; missing ones are the encoding's matter."""
        for name, values in self._values.items():
            for row in rows:
                cell = row[name]
                if cell is None or (isinstance(cell, str) and cell.strip() in MISSING_WORDS):
                    continue
                if values.words is not None:
                    allowed = text_of(cell).strip() in self._words[name]
                else:
                    number = self._reading.number(cell)
                    allowed = number is None or values.allow(number)
                if not allowed:
                    raise refused(f"column {name}")


class ArrayDomain:
    """Values of the numbers of a record, each at its place.

    Args:
        every: holds of all of them, from a schema.
        rows: reference records (records, *shape), perhaps none.
    """

    def __init__(self, every: Values, rows: Float64[np.ndarray, "records *shape"] | None) -> None:
        self._low = -np.inf if every.low is None else every.low
        self._high = np.inf if every.high is None else every.high
        self._whole: Bool[np.ndarray, "*shape"] | bool = every.whole
        if rows is not None:
            self._whole = (rows == np.round(rows)).all(axis=0) | every.whole

    def check(self, rows: Float64[np.ndarray, "rows *shape"]) -> None:
        """Raises RefusedError for a number that cannot stand at its place."""
        outside = (rows < self._low) | (rows > self._high) | (self._whole & (rows != np.round(rows)))
        if outside.any():
            places = outside.reshape(len(rows), -1).any(axis=0)
            raise refused(f"value {int(places.argmax()) + 1} of a row")


Domain = TableDomain | ArrayDomain


def refused(where: str) -> RefusedError:
    """The refusal of a row that is no record."""
    return RefusedError(422, f"{where}: expected what a record can have there; ask about records alone")


def domain_of(settings: DomainSettings, form: RowForm) -> Domain | None:
    """The domain of a release's rows; None where nothing says what they can be.

    Raises:
        ValueError: if the schema is none, or there are too few reference records.
        FileNotFoundError: if a file is absent.
    """
    if settings.schema is None and settings.reference is None:
        return None
    if form.are_texts:
        raise ValueError("domain: expected a release that takes numbers or tables, not texts; leave it out")
    schema = {} if settings.schema is None else _schema(settings.schema, form)
    rows = None if settings.reference is None else reference_rows("domain.reference", settings.reference, form)
    if rows is not None and len(rows) < MIN_REFERENCE_RECORDS:
        raise ValueError(
            f"domain.reference={settings.reference}: expected at least {MIN_REFERENCE_RECORDS} records, not"
            f" {len(rows)}; give more, or a schema"
        )
    if form.columns is not None:
        return TableDomain(form, schema, [] if rows is None else rows)
    return ArrayDomain(schema.get(ALL_VALUES, Values()), rows)


def _schema(path: str, form: RowForm) -> dict[str, Values]:
    import yaml

    file = place("domain.schema", path)
    if not file.is_file():
        raise FileNotFoundError(f"domain.schema={path} is no file; give a YAML file with columns: or values:")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    kind = ALL_VALUES if form.columns is None else "columns"
    if not isinstance(content, Mapping) or set(content) != {kind} or not isinstance(content[kind], Mapping):
        raise ValueError(f"domain.schema={path}: expected {kind}: alone at its top; write it as the docs show")
    if form.columns is None:
        return {ALL_VALUES: validated(Values, f"domain.schema {ALL_VALUES}", content[kind])}
    if unknown := set(content[kind]) - set(form.columns):
        name = as_written(min(map(str, unknown)))
        raise ValueError(f"domain.schema={path}: expected columns of the release, not {name}; remove it")
    return {name: validated(Values, f"domain.schema {name}", values) for name, values in content[kind].items()}
