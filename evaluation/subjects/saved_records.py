"""Records and answers in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.cells import PLAIN_READING
from palisade.data.files import read_arrays
from palisade.data.settings import place
from palisade.data.table_reader import is_table_file, read_table
from palisade.evaluation.subjects.answer_forms import class_numbers, named_classes, plain_labels

if TYPE_CHECKING:
    import pandas as pd

ANSWER_FIELDS = ("logits", "probabilities", "predictions")
PERSONS_FIELD, CLASSES_FIELD = "persons", "classes"
TOKEN_LOGPROBS = "token_logprobs"
"""Name of the answers of language models: log p of every token, NaN where a text has none."""
TEXT_FIELDS = (TOKEN_LOGPROBS, "base_logprobs", "token_greedy", "token_means", "token_variances", "texts")
OTHER_NAMES = {"x": "features", "y": "labels"}
"""Names of arrays that `data=npz` uses, with those of an audit."""
MIN_RECORDS_PER_SIDE = 10
"""Fewest records on a side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRecords:
    """Labeled records of a file.

    Args:
        name: the setting that named the file, such as `members=in.npz`, for errors.
        labels: the true classes, as numbers, truth values or words, or one-hot.
        rows: the records themselves, as numbers or as a table; None where only answers were saved.
        answers: what a model answered, under one of `logits`, `probabilities` and `predictions`; empty if it is to be
            asked.
        persons: whose record each one is; None: each another person's.
        classes: the words of the classes in the order of saved scores; None where nothing names them.
        texts: the records, where they are texts; their labels are 0.
        file: that holds them.
    """

    name: str
    labels: Shaped[np.ndarray, "records *classes"]
    rows: np.ndarray | pd.DataFrame | None
    answers: Mapping[str, np.ndarray]
    persons: Shaped[np.ndarray, "records"] | None = None
    classes: tuple[str, ...] | None = None
    texts: Shaped[np.ndarray, "records"] | None = None
    file: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def is_copy_of(self, other: SavedRecords) -> bool:
        """Equality of content, however the files are called.

        Predicted classes alone may be the same of other records, as where all are right: then only one file is one.
        """
        if self.rows is None and "predictions" in self.answers:
            return self.file is not None and other.file is not None and self.file.samefile(other.file)
        return (
            np.array_equal(self.labels, other.labels)
            and _equal(self.rows, other.rows)
            and self.answers.keys() == other.answers.keys()
            and all(
                np.array_equal(answers, other.answers[level], equal_nan=answers.dtype.kind == "f")
                for level, answers in self.answers.items()
            )
        )

    def numbered(self, classes: Sequence[str] | None) -> Int64[np.ndarray, "records"]:
        """The labels as numbers from 0.

        Args:
            classes: the words of the classes; None where the labels are these numbers.

        Raises:
            ValueError: if a label is neither a class nor a number of one.
        """
        return class_numbers(self.name, self.labels, classes)


def read(
    setting: str, path: str, label: str | None = None, person: str | None = None, text: str | None = None
) -> SavedRecords:
    """Reads labeled records from an .npz or a .csv file; no code of the file runs.

    Args:
        setting: that names the file, for errors.
        path: of the file.
        label: the column of a CSV file that holds the true class.
        person: the column of a CSV file that says whose record each row is; None: each another person's.
        text: the column of a CSV file that holds texts, for a language model; then no label is needed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or lacks something, or its path lies in the home of nobody.
    """
    name = f"{setting}={path}"
    if not (file := place(setting, path)).is_file():
        raise FileNotFoundError(f"{name}: expected an .npz file or a table, and none is there; correct the path")
    if is_table_file(file):
        return _of_table(name, file, label, person, text)
    arrays = _arrays(name, file)
    arrays = {OTHER_NAMES.get(key, key): values for key, values in arrays.items()}
    if person is not None and PERSONS_FIELD not in arrays:
        raise ValueError(
            f"person={person}: expected a column of a .csv file, and {name} is none; save persons in it instead"
        )
    if TOKEN_LOGPROBS in arrays:
        return _of_texts(name, file, arrays)
    if "labels" not in arrays:
        raise ValueError(f"{name} has no labels; save the true class of each record as labels, numbered from 0")
    labels = plain_labels(name, arrays["labels"])
    answers = {key: arrays[key] for key in ANSWER_FIELDS if key in arrays}
    _check_shapes(name, arrays, answers)
    return SavedRecords(
        name=name,
        labels=labels,
        persons=_persons(name, arrays.get(PERSONS_FIELD)),
        rows=_finite(name, arrays.get("features")),
        answers=answers,
        classes=named_classes(f"{name}: classes", arrays.get(CLASSES_FIELD)),
        file=file,
    )


def _of_texts(name: str, file: Path, arrays: Mapping[str, np.ndarray]) -> SavedRecords:
    """Per-token answers of a language model, with the texts themselves if they were saved."""
    count = len(arrays[TOKEN_LOGPROBS])
    for key in (*TEXT_FIELDS, PERSONS_FIELD):
        if key in arrays and (arrays[key].ndim == 0 or len(arrays[key]) != count):
            raise ValueError(
                f"{name}: {key} have shape {arrays[key].shape}; there are {count} of {TOKEN_LOGPROBS}, save as many"
            )
    texts = arrays.get("texts")
    if texts is not None and texts.dtype.kind != "U":
        raise ValueError(f"{name}: texts are {texts.dtype}; save words, as numpy.array(list_of_texts)")
    return SavedRecords(
        name=name,
        labels=np.zeros(count, dtype=np.int64),
        persons=_persons(name, arrays.get(PERSONS_FIELD)),
        rows=None,
        answers={key: arrays[key] for key in TEXT_FIELDS[:-1] if key in arrays},
        texts=texts,
        file=file,
    )


def _check_shapes(name: str, arrays: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray]) -> None:
    labels = arrays["labels"]
    for key in ("features", PERSONS_FIELD, *answers):
        if key in arrays and (arrays[key].ndim == 0 or len(arrays[key]) != len(labels)):
            raise ValueError(
                f"{name}: {key} have shape {arrays[key].shape}; there are {len(labels)} labels, save as many"
            )
    if len(answers) > 1:
        raise ValueError(f"{name} holds {' and '.join(answers)}; save the one that is released")
    if "features" in arrays and arrays["features"].ndim < 2:
        raise ValueError(f"{name}: features have shape {arrays['features'].shape}; save (records, …)")


def _persons(name: str, persons: np.ndarray | None) -> np.ndarray | None:
    if persons is not None and (persons.ndim != 1 or persons.dtype.kind not in "iuU"):
        held = f"{persons.dtype} of shape {persons.shape}"
        raise ValueError(f"{name}: persons are {held}; save one whole number or word for each record")
    return persons


def enough(saved: SavedRecords, least: int = MIN_RECORDS_PER_SIDE) -> SavedRecords:
    """The records, if there are enough of them.

    Raises:
        ValueError: if not.
    """
    if len(saved) < least:
        raise ValueError(f"{saved.name} holds {len(saved)} records; give at least {least}")
    return saved


def _equal(one: Any, other: Any) -> bool:
    """Equality of rows; in tables, cells without a value are equal."""
    return bool(one.equals(other)) if hasattr(one, "equals") else np.array_equal(one, other)


def _arrays(name: str, file: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(
            file, [*ANSWER_FIELDS, *TEXT_FIELDS, PERSONS_FIELD, CLASSES_FIELD, *OTHER_NAMES, *OTHER_NAMES.values()]
        )
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be read: {reason}; write it with numpy.savez(path, logits=…, labels=…)"
        ) from None


def _of_table(name: str, file: Path, label: str | None, person: str | None, text: str | None) -> SavedRecords:
    if label is None and text is None:
        raise ValueError(f"{name} is a table; name the column of the true class with label=<column>")
    other = "label" if text is None else "text"
    if person is not None and person == (label if text is None else text):
        raise ValueError(
            f"person={person}: expected another column than that of {other}; choose one, or leave person out"
        )
    named = {"label": label if text is None else None, "person": person, "text": text}
    columns = {key: column for key, column in named.items() if column is not None}
    table = read_table(name.partition("=")[0], file)
    words = {}
    for key, column in columns.items():
        if column not in table:
            there = ", ".join(map(str, table.columns))
            raise ValueError(f"{key}={column}: expected a column of {file}; choose one of {there}")
        cells = PLAIN_READING.cells(table[[column]])[column]
        if missing := int(cells.isna().sum()):
            raise ValueError(f"{name}: {column} has no value in {missing} rows; fill them, or remove these rows")
        words[key] = cells.to_numpy(dtype=str)
    if text is not None:
        texts = words["text"]
        return SavedRecords(
            name=name, labels=np.zeros(len(table), dtype=np.int64), rows=table[[text]].set_axis(["text"], axis=1),
            answers={}, persons=words.get("person"), texts=texts, file=file,
        )  # fmt: skip
    rows = table.drop(columns=list(columns.values()))
    return SavedRecords(name=name, labels=words["label"], rows=rows, answers={}, persons=words.get("person"), file=file)


def _finite(name: str, rows: Any) -> Any:
    if rows is not None and rows.dtype.kind not in "biuf":
        raise ValueError(f"{name}: features are {rows.dtype}; save numbers")
    if rows is not None and rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise ValueError(f"{name}: features hold NaN or infinity; remove these records or fill them")
    return rows
