"""Records of a source: rows as they were written, labels as numbers with their words, persons where named."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.columns import UnfittedColumns
from palisade.data.preprocessing import Preprocessing
from palisade.data.subwords import UnfittedSubwords

if TYPE_CHECKING:
    import pandas as pd


def name_of(path: Path | str) -> str:
    """The name of a data set that has none of its own: that of its file, without endings and other signs."""
    return re.sub(r"[^\w +-]", "_", Path(path).name.split(".")[0])


@runtime_checkable
class Source(Protocol):
    """A source of records: a frozen dataclass with the settings of one file in `conf/data`."""

    def load(self) -> Records:
        """All records of the data set as raw rows, with labels and, where named, persons."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """The records of a data set, before roles are dealt out.

    Args:
        name: of the data set; it becomes part of a run's folder.
        rows: raw rows: an array (records, ...) or a table.
        labels: 0..C−1; None for documents, whose class at every position is a token (`data.sequences`).
        classes: the C words that the labels stand for; empty for documents.
        persons: a number for the person behind each record, or None if records are the unit of privacy.
        published: the checksum by which public data are known; None for private data, since anyone could test
            a guess about them against their checksum.
        preprocessing: complete, or still to be fitted on records that it may use.
        published_test: indices of the records that the publisher set apart for testing, or None.
        test: indices of the records of a file of their own for testing, or None.
        reference: indices of public records of a file of their own, or None.

    Raises:
        ValueError: if the name is no folder name, or a class has fewer than 2 records.
    """

    name: str
    rows: np.ndarray | pd.DataFrame
    labels: Int64[np.ndarray, " records"] | None
    classes: tuple[str, ...] = ()
    persons: Int64[np.ndarray, " records"] | None = None
    published: str | None = None
    preprocessing: Preprocessing | UnfittedColumns | UnfittedSubwords
    published_test: Int64[np.ndarray, " test"] | None = None
    test: Int64[np.ndarray, " test"] | None = None
    reference: Int64[np.ndarray, " reference"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w .+-]{0,99}", self.name):
            raise ValueError(
                f"data.name={self.name}: expected at most 100 letters, digits and - _ . +; choose such a folder name"
            )
        if self.labels is None:
            return
        if len(self.classes) < 2:
            raise ValueError(f"data {self.name}: the only class is {self.classes[0]}; add records of another class")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if counts.min() < 2:
            raise ValueError(
                f"data {self.name}: class {self.classes[counts.argmin()]} has {counts.min()} of {len(self.labels)} "
                "records and needs at least 2; merge it with another one or remove it"
            )

    def fingerprint(self) -> str:
        """SHA-256 of the content, for cache keys: of private data it must never be published."""
        digest = hashlib.sha256(json.dumps([self.classes, self.preprocessing.to_json()]).encode())
        columns = (
            [self.rows] if isinstance(self.rows, np.ndarray) else [self.rows[name].to_numpy() for name in self.rows]
        )
        for column in (*columns, self.labels, self.persons):
            if column is not None:
                _update(digest, column)
        return digest.hexdigest()


def _update(digest: hashlib._Hash, values: Shaped[np.ndarray, "..."]) -> None:
    digest.update(f"{values.dtype} {values.shape}".encode())
    if values.dtype.hasobject:  # words: JSON keeps the borders between them
        digest.update(json.dumps(values.tolist(), default=str).encode())
    else:
        digest.update(np.ascontiguousarray(values).data.cast("B"))
