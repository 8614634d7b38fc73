"""Requirements on raw rows before they become inputs: numbers, finite, of the shape that the network expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

CHUNK_RECORDS = 256  # records looked at together: copies stay small, and a memory-mapped array on disk


def shaped(rows: Any, shape: Sequence[int]) -> Shaped[np.ndarray, "records ..."]:
    """Rows as an array (records, *shape); they may come flattened.

    Raises:
        ValueError: for rows of another shape, with text, or with values that are not finite.
    """
    rows = np.asarray(rows)
    if math.prod(rows.shape[1:]) != math.prod(shape) or rows.ndim < 2:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"rows have shape {rows.shape} but the network expects (records, {expected}); reshape them")
    check_finite("rows", rows)
    return rows.reshape(-1, *shape)


def check_finite(name: str, rows: Shaped[np.ndarray, "records ..."]) -> None:
    """Raises ValueError if rows are no numbers, or become NaN or infinite as float32."""
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {rows.dtype}; convert it to numbers")
    if rows.dtype.kind != "f":  # whole numbers are finite, and float32 holds the largest of them
        return
    for start in range(0, len(rows), CHUNK_RECORDS):
        with np.errstate(over="ignore"):
            wrong = np.count_nonzero(~np.isfinite(rows[start : start + CHUNK_RECORDS].astype(np.float32)))
        if wrong:
            raise ValueError(f"{name} has NaN or infinite values (float32); remove or replace them")
