"""Copies of records are counted as a double loop counts them, and only where they mix members with non-members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import duplicated
from palisade.evaluation.measuring.baselines import DUPLICATE_SHARE, duplicated_share
from palisade.evaluation.result import Result, Row

NO_RECORDS = np.array([], dtype=np.int64)


def dataset(
    x: Any, y: Any, *, pool: Any = None, persons: Any = None, canaries: Any = NO_RECORDS, kind: type = np.float32
) -> Dataset:
    x, y = np.asarray(x, dtype=kind), np.asarray(y, dtype=np.int64)
    split = Split(
        pool=np.arange(len(x)) if pool is None else np.asarray(pool),
        validation=NO_RECORDS, reference=NO_RECORDS, population=NO_RECORDS, test=NO_RECORDS,
        record_persons=None if persons is None else np.asarray(persons), canaries=np.asarray(canaries),
    )  # fmt: skip
    nothing: Any = None
    return Dataset(
        name="made", x=x, y=y, classes=("a", "b"), split=split, preprocessing=nothing, fingerprint="", published=None
    )


def naive(data: Dataset) -> float:
    """Duplicated share by a loop over all pairs."""
    persons = data.split.record_persons
    copies = 0
    for record in data.split.audited:
        copies += any(
            (data.x[other] == data.x[record]).all() and data.y[other] == data.y[record]
            for other in data.split.pool
            if (other != record if persons is None else persons[other] != persons[record])
        )
    return copies / len(data.split.audited)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_as_a_double_loop_counts(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    few = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    persons = data.draw(st.one_of(st.none(), few))
    canaries = data.draw(st.sets(st.integers(0, n - 1))) if persons is None else set()
    drawn = dataset(
        np.array(data.draw(few))[:, None], data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)),
        persons=persons, canaries=sorted(canaries),
    )  # fmt: skip
    assert duplicated_share(drawn) == pytest.approx(naive(drawn))


@pytest.mark.parametrize(
    ("x", "y", "own", "share"),
    [
        ([[1, 2], [1, 2], [3, 4], [5, 6]], [0, 0, 1, 1], {}, 0.5),
        ([[1, 2], [1, 2], [3, 4], [5, 6]], [0, 1, 1, 1], {}, 0.0),  # another label: no copy
        ([[1, 2], [1, 2], [3, 4], [5, 6]], [0, 0, 1, 1], {"pool": [0, 2, 3]}, 0.0),  # the copy is never trained on
        ([[1, 2], [1, 2], [3, 4], [5, 6]], [0, 0, 1, 1], {"persons": [7, 7, 8, 9]}, 0.0),  # they share a fate
        ([[1, 2], [1, 2], [3, 4], [5, 6]], [0, 0, 1, 1], {"canaries": [0, 2]}, 0.5),
        ([[1, 2], [1, 2]], [0, 0], {"kind": np.int64}, 1.0),  # words
    ],
)
def test_by_hand(x: list[list[int]], y: list[int], own: dict[str, Any], share: float) -> None:
    assert duplicated_share(dataset(x, y, **own)) == share


@pytest.mark.parametrize(("share", "flagged"), [(0.2, True), (0.0101, True), (0.01, False), (0.0, False)])
def test_more_than_one_in_a_hundred_is_flagged(make_result: Callable[..., Result], share: float, flagged: bool) -> None:
    result = make_result()
    result = replace(result, rows=[*result.rows, Row(metric=DUPLICATE_SHARE, value=share)])
    raised = list(duplicated(result, Comparison([result])))
    assert [flag.name for flag in raised] == (["duplicates"] if flagged else [])
    assert not flagged or f"{100 * share:.1f} % of the records have an exact copy" in raised[0].sentence


def test_results_without_the_number_are_not_flagged(make_result: Callable[..., Result]) -> None:
    result = make_result()
    assert not list(duplicated(result, Comparison([result])))
