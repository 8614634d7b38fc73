"""Records are dealt out to ensembles independently of each other, so many times each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from palisade.data.secret import Secret
from palisade.data.split import Split
from palisade.defenses.parts.partition import dealt_out

TEST_SECRET = Secret.from_text("partition")


def split_of(records: int, persons: np.ndarray | None = None) -> Split:
    nobody = np.array([], dtype=np.int64)
    return Split(
        pool=np.arange(records),
        validation=nobody,
        reference=nobody,
        population=nobody,
        test=nobody,
        record_persons=persons,
    )


@pytest.mark.parametrize(("parts", "seen_by"), [(25, 15), (5, 3), (3, 1), (2, 1)])
def test_every_record_is_seen_so_many_times(parts: int, seen_by: int) -> None:
    sees = dealt_out(split_of(300), TEST_SECRET, 0, parts=parts, seen_by=seen_by)
    assert sees.shape == (parts, 300)
    assert (sees.sum(axis=0) == seen_by).all()


def test_all_choices_are_equally_likely() -> None:
    sees = dealt_out(split_of(6000), TEST_SECRET, 0, parts=4, seen_by=2)
    counts = np.unique(sees.T @ [1, 2, 4, 8], return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_further_records_change_nothing_for_the_others() -> None:
    few, many = (dealt_out(split_of(records), TEST_SECRET, 3, parts=5, seen_by=2) for records in (50, 80))
    assert (few == many[:, :50]).all()
    assert (few != dealt_out(split_of(50), TEST_SECRET, 4, parts=5, seen_by=2)).any()


def test_records_of_a_person_share_their_parts() -> None:
    persons = np.arange(90) % 30
    sees = dealt_out(split_of(90, persons), TEST_SECRET, 0, parts=5, seen_by=2)
    assert (sees == sees[:, persons]).all()
    assert len(np.unique(sees, axis=1).T) > 5


def test_depends_on_the_pool_alone() -> None:
    split = split_of(40)
    apart = replace(split, reference=np.arange(100, 120))
    assert (
        dealt_out(split, TEST_SECRET, 0, parts=5, seen_by=2) == dealt_out(apart, TEST_SECRET, 0, parts=5, seen_by=2)
    ).all()
