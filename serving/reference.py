"""Reference records: rows that are no members, by which a server learns what is usual."""

from __future__ import annotations

from typing import Any

import numpy as np

from palisade.data.columns import Columns
from palisade.data.settings import place
from palisade.data.table_reader import read_table
from palisade.serving.bodies import RowForm

FEATURE_NAMES = ("features", "x", "images")
"""Names of the array in an .npz, as audits and data=npz have it."""


def reference_rows(key: str, path: str, form: RowForm) -> Any:
    """Rows as a release takes them: dicts of cells, texts, or an array (records, *shape).

    Args:
        key: of the setting that names the file.
        path: of a table, or an .npz.
        form: of the release's rows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such rows.
    """
    if isinstance(form.step, Columns):
        table = read_table(key, path, form.step.reading)
        if absent := [name for name in form.step.columns if name not in table]:
            raise ValueError(f"{key}={path}: expected the columns of the release, not without {absent[0]}; add it")
        rows: list[dict[str, Any]] = table[list(form.step.columns)].to_dict("records")
        return rows
    if form.are_texts:
        raise ValueError(f"{key}={path}: expected a release that takes numbers or tables, not texts; leave it out")
    file = place(key, path)
    if not file.is_file():
        raise FileNotFoundError(f"{key}={path} is no file; give an .npz with the array features")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            array = next(arrays[name] for name in FEATURE_NAMES if name in arrays)
        return array.reshape(len(array), *form.shape).astype(np.float64)
    except (ValueError, OSError, StopIteration, AttributeError, TypeError):
        shape = ", ".join(map(str, form.shape))
        raise ValueError(
            f"{key}={path}: expected an .npz with the array features of shape (records, {shape}); save it with"
            " numpy.savez"
        ) from None
