"""Likeness of records: the cosine of numbers, and of texts how many runs of tokens they share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64, Real
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from scipy.sparse import csr_array

from palisade.data.tokens import PADDING_TOKEN

RUN_TOKENS = 5
"""Tokens in a row by which texts are compared, as of Lee et al. (2022, section 4.2)."""
Similarity = Callable[[Int64[ndarray, "some"], Int64[ndarray, "others"]], Float[ndarray, "some others"]]


def cosine(x: Real[ndarray, "records ..."]) -> Similarity:
    """Cosine of the angle between inputs of numbers."""
    rows = x.reshape(len(x), -1)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(rows.dtype).tiny)
    return lambda some, others: np.asarray(rows[some] @ rows[others].T)


def jaccard(x: Int64[ndarray, "records positions"]) -> Similarity:
    """Runs of 5 tokens that two texts share, over those that either has; of a shorter text, all of its tokens.

    Args:
        x: tokens, 0 where there is none.
    """
    number_of: dict[bytes, int] = {}
    columns, sizes = [], []
    for row in x:
        tokens = row[row != PADDING_TOKEN]
        runs = sliding_window_view(tokens, min(RUN_TOKENS, len(tokens))) if len(tokens) else tokens[None]
        own = {number_of.setdefault(run.tobytes(), len(number_of)) for run in runs}
        columns += sorted(own)
        sizes.append(len(own))
    places = np.concatenate([[0], np.cumsum(sizes)])
    holds = csr_array((np.ones(len(columns)), columns, places), shape=(len(x), len(number_of)))

    def similarity(some: ndarray, others: ndarray) -> ndarray:
        shared = (holds[some] @ holds[others].T).toarray()
        counts = np.asarray(sizes)
        return np.asarray(shared / (counts[some][:, None] + counts[others] - shared))

    return similarity
