"""Records of which the pool holds a copy: as members and as non-members they look alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from palisade.data.dataset import Dataset
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.result import Result

DUPLICATES = "duplicates"
"""The name of the metric."""
MANY = 0.01


@lru_cache(maxsize=2)
def duplicated_share(dataset: Dataset) -> float:
    """Share of the audited records with an exact copy, input and label, among the pool's other records.

    A model that was trained on the copy was trained on the record as well, whatever its membership says: attacks are
    told that they are wrong where they are right. A person's copies of a record share its fate and do not count.
    """
    split = dataset.split
    owner = split.pool if split.persons is None else split.persons
    _, content = np.unique(
        [content_digest(dataset.x[record], dataset.y[record]) for record in split.pool.tolist()], return_inverse=True
    )
    owned = np.unique(np.column_stack([content, owner]), axis=0)[:, 0]
    owners = np.bincount(owned)[content]
    return float((owners[split.is_audited] > 1).mean())


def duplicated(result: Result) -> Iterator[Flag]:
    """Members and non-members share content."""
    row = result.find(DUPLICATES)
    if row is not None and (row.value or 0.0) > MANY:
        yield Flag(
            "duplicates",
            f"{100 * (row.value or 0.0):.1f} % of the records have an exact copy in the pool, so that a model may"
            " have been trained on what counts as a non-member. Attacks look weaker than they are: remove the"
            " copies from the data, or name in data.person whose records belong together.",
        )


def content_digest(row: np.ndarray, label: int | np.integer) -> bytes:
    """16 bytes that records share whose input and label are the same."""
    content = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16)
    content.update(int(label).to_bytes(8, "little"))
    return content.digest()
