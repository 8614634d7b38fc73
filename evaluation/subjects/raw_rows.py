"""Raw rows of an audit's tables: typed as pandas reads them, all files alike, and coded as numbers for comparisons."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.saved_records import SavedRecords

if TYPE_CHECKING:
    import pandas as pd


def aligned(sides: Mapping[str, SavedRecords]) -> dict[str, SavedRecords]:
    """The files of an audit, tables with the columns of the first one in its order.

    Raises:
        ValueError: if some hold tables and others arrays, or the tables have unlike columns.
    """
    with_rows = {key: saved for key, saved in sides.items() if saved.rows is not None}  # the others are refused later
    tables: dict[str, Any] = {key: saved.rows for key, saved in with_rows.items() if is_table(saved.rows)}
    if not tables:
        return dict(sides)
    first = sides[next(iter(tables))]
    columns = list(tables[next(iter(tables))])
    for key, saved in with_rows.items():
        if key not in tables:
            raise ValueError(f"{saved.name} holds an array and {first.name} a table; save both as the model takes them")
        if unlike := sorted({*tables[key]} ^ {*columns}):
            raise ValueError(
                f"{saved.name}: column {unlike[0]} is in only one of it and {first.name}; give both all that"
                " the model takes"
            )
        if tables[key].columns.has_duplicates:
            raise ValueError(f"{saved.name} has two columns of one name; rename one of them")
    return {**sides, **{key: replace(sides[key], rows=table[columns]) for key, table in tables.items()}}


def with_raw_rows(
    model: AuditedModel, sides: Mapping[str, SavedRecords]
) -> tuple[AuditedModel, dict[str, SavedRecords]]:
    """A model and the tables that it is asked about, with each column in the type that pandas reads from all files.

    Attackers cannot move such rows about, so the model takes no inputs of their choice.

    Args:
        model: that takes tables.
        sides: the files of an audit, with columns alike.
    """
    tables: dict[str, Any] = {key: saved.rows for key, saved in sides.items() if is_table(saved.rows)}
    if not tables:
        return model, dict(sides)
    whole = _read_by_pandas(list(tables.values()))
    words = {name: _words(column) for name, column in whole.items() if column.dtype.kind not in "biuf"}
    gaps = [name for name, column in whole.items() if column.isna().any()]
    typed, start = dict(sides), 0
    for key, table in tables.items():
        rows = whole.iloc[start : start + len(table)].reset_index(drop=True)
        typed[key], start = replace(sides[key], rows=rows), start + len(table)

    def inputs(rows: Any) -> Float64[np.ndarray, "records columns"]:
        return _coded(rows, words, gaps)

    return replace(model, inputs=inputs, takes_inputs=False), typed


def is_table(rows: Any) -> bool:
    """True for a DataFrame, false for an array and for nothing."""
    return hasattr(rows, "iloc")


def rows_at(rows: Any, places: Sequence[int]) -> Any:
    """Some rows of a table or an array, in this order."""
    return rows.iloc[list(places)].reset_index(drop=True) if is_table(rows) else rows[places]


def plain_rows(rows: Any) -> list[Any]:
    """Rows as JSON holds them: {column: value} of a table, with null for no value; lists of numbers of an array."""
    if not is_table(rows):
        return rows.tolist()
    records: list[Any] = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return records


def names_of_rows(rows: Any) -> list[str]:
    """A hash of each row: of an array's type, shape and values, or of a table's columns and values."""
    if not is_table(rows):
        return [_hash(f"{row.dtype} {row.shape}".encode(), np.ascontiguousarray(row).tobytes()) for row in rows]
    return [_hash(b"row", json.dumps(row, default=str).encode()) for row in plain_rows(rows)]


def form_of_rows(rows: Any) -> str:
    """The form of rows in a few words, for errors."""
    if not is_table(rows):
        return f"{rows.dtype} of shape {rows.shape}"
    return f"a DataFrame of {len(rows)} rows with columns {', '.join(map(str, rows))}"


def _hash(kind: bytes, content: bytes) -> str:
    digest = hashlib.blake2b(kind, digest_size=16)
    digest.update(content)
    return digest.hexdigest()


def _read_by_pandas(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of text below each other, read as one file: a column is of one type, whatever a file holds of it."""
    import pandas as pd

    text = pd.concat(tables, ignore_index=True).to_csv(index=False)
    return pd.read_csv(io.StringIO(text), skip_blank_lines=False, low_memory=False)


def _words(column: pd.Series) -> pd.Index:
    import pandas as pd

    return pd.Index(np.unique(column.dropna().astype(str).to_numpy(dtype=str)))


def _coded(
    rows: pd.DataFrame, words: Mapping[str, pd.Index], gaps: Sequence[str]
) -> Float64[np.ndarray, "records columns"]:
    """Rows as numbers that tell apart what differs: words by their place, missing values by a column of their own."""
    columns = []
    for name, column in rows.items():
        missing = column.isna().to_numpy()
        if name in words:
            values = words[str(name)].get_indexer(column.astype(str).to_numpy(dtype=str)).astype(np.float64)
        else:
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        columns.append(np.where(missing, 0.0, values))
        if name in gaps:
            columns.append(missing.astype(np.float64))
    return np.stack(columns, axis=1)
