"""Work in blocks of records: arrays over (models, records) that need not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from math import prod
from tempfile import TemporaryFile, gettempdir

import numpy as np
from jaxtyping import Float, Shaped

NUMBERS_AT_ONCE = 2**22
"""Numbers of one array that are worked on together; whatever is larger lies in a file: 32 MB in float64."""


def blocks(models: int, records: int) -> Iterator[slice]:
    """Slices that cover all records, so narrow that (models, records) of each are few enough to work on."""
    step = max(1, NUMBERS_AT_ONCE // max(models, 1))
    yield from (slice(start, min(start + step, records)) for start in range(0, records, step))


def room(shape: tuple[int, ...], dtype: type = np.float64) -> Shaped[np.ndarray, "..."]:
    """A writable array without content; a large one lies in a nameless file among the temporary ones (`TMPDIR`).

    Pages of that file give way where memory is short, and the file is gone with the array.

    Raises:
        OSError: if the disk has no room; names the folder of temporary files.
    """
    if prod(shape) <= NUMBERS_AT_ONCE:
        return np.empty(shape, dtype)
    with TemporaryFile(prefix="palisade-") as file:
        size = prod(shape) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a crash later
            except OSError as error:
                raise OSError(error.errno, error.strerror, gettempdir()) from None
        else:
            file.truncate(size)
        return np.asarray(np.memmap(file, dtype=dtype, mode="r+", shape=shape))


def in_blocks(
    shape: tuple[int, ...], parts: Iterable[slice], score: Callable[[slice], Float[np.ndarray, "models block"]]
) -> Float[np.ndarray, "models records"]:
    """All scores, made block by block.

    Args:
        shape: of all of them, (models, records).
        parts: blocks that cover the records.
        score: the scores on the records of a block.
    """
    scores = room(shape)
    for block in parts:
        scores[:, block] = score(block)
    return scores
