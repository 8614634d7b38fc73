"""Students: models that are trained on public reference records, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from palisade.data.split import Split

STUDENT_RESTRICTION = "reference records: the student is trained on them, and the claim is about the pool alone"
"""Restriction of a claim, where a student was trained on reference records."""


def reference_as_pool(split: Split) -> Split:
    """The roles by which a student is trained: the reference records are its pool, the members have no role at all.

    Raises:
        ValueError: if a reference record could be a member; distilling on members is no defense.
    """
    if overlap := len(np.intersect1d(split.reference, split.pool)):
        raise ValueError(
            f"split.reference: expected no record of the pool, but {overlap} are in both, and a student would memorize"
            " members; keep the two apart"
        )
    empty = np.array([], dtype=np.int64)
    return replace(split, pool=split.reference, reference=empty, canaries=empty)


def check_count(split: Split, key: str, count: int | None) -> int:
    """Number of reference records by a setting; all where it is None.

    Raises:
        ValueError: if there are not so many.
    """
    there = len(split.reference)
    if count is not None and count > there:
        raise ValueError(
            f"defense.{key}={count}: expected at most {there}, the reference records; choose fewer, or raise"
            " split.reference"
        )
    return there if count is None else count
