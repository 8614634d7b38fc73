"""Units of privacy bring the same number of rows into a step, whatever they consist of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from palisade.data.secret import Secret
from palisade.data.units import Groups, units_of

TEST_SECRET = Secret.from_text("test")


def test_a_record_repeated_side_by_side() -> None:
    units = units_of(5, groups=None, records_per_group=1, augmentations=3, secret=TEST_SECRET)
    assert (len(units), units.rows_per_unit, units.name) == (5, 3, "record")
    assert units.rows(np.array([1, 4]), 0, 0).tolist() == [1, 1, 1, 4, 4, 4]


def groups(bound: int, augmentations: int = 1) -> Groups:
    names = ["ann", "bob", "ann", "cy", "ann", "bob", "ann"]
    return Groups(names, records_per_group=bound, augmentations=augmentations, secret=TEST_SECRET)


def test_a_group_takes_part_with_a_bounded_number_of_its_records() -> None:
    units = groups(2)
    assert len(units) == 3 and units.rows_per_unit == 2 and units.name == "group"
    seen = set()
    for step in range(60):
        ann, bob, cy = units.rows(np.array([0, 1, 2]), 0, step).reshape(3, 2)
        assert set(ann) < {0, 2, 4, 6} and len(set(ann)) == 2  # without repeating any while there are others
        assert set(bob) == {1, 5} and set(cy) == {3}
        seen |= set(ann)
    assert seen == {0, 2, 4, 6}


def test_small_groups_repeat_their_records_evenly() -> None:
    counts = np.bincount(groups(4).rows(np.array([1]), 0, 0), minlength=7)
    assert counts.tolist() == [0, 2, 0, 0, 0, 2, 0]


def test_rows_depend_on_secret_model_and_step_only() -> None:
    units = groups(2, augmentations=2)
    taken = np.array([0, 2])
    assert units.rows(taken, 3, 7).tolist() == groups(2, augmentations=2).rows(taken, 3, 7).tolist()
    assert len(units.rows(taken, 3, 7)) == 2 * units.rows_per_unit == 8
    assert any(units.rows(taken, 3, 7).tolist() != units.rows(taken, 3, step).tolist() for step in range(5))
    assert units.rows(np.array([], dtype=np.int64), 0, 0).shape == (0,)


def drawn(values: Any, bound: int, step: int, ranks: int = 1) -> dict[str, list[int]]:
    """For every group, which of its own records take part: 0 is the first of them in the data set."""
    units = Groups(values, records_per_group=bound, secret=TEST_SECRET)
    number = [list(values[:row]).count(value) for row, value in enumerate(values)]
    shares = [np.arange(len(units))[rank::ranks] for rank in range(ranks)]
    rows = [row for share in shares for row in units.rows(share, 1, step).reshape(-1, bound).tolist()]
    return {str(values[row[0]]): [number[record] for record in row] for row in rows}


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.sampled_from(["ann", "bob", "cy", "dee", "p17"]), min_size=1, max_size=40),
    bound=st.integers(1, 6),
    step=st.integers(0, 10**6),
    ranks=st.integers(1, 4),
    data=st.data(),
)
def test_the_draws_of_a_group_are_its_own(values: list[str], bound: int, step: int, ranks: int, data: Any) -> None:
    """Neither another group's presence nor the number of processes changes them."""
    all_groups = drawn(values, bound, step)
    assert drawn(values, bound, step, ranks) == all_groups
    removed = data.draw(st.sampled_from(values))
    rest = [value for value in values if value != removed]
    del all_groups[removed]
    assert (drawn(rest, bound, step) if rest else {}) == all_groups


def test_a_missing_group_does_not_make_others_of_the_rest() -> None:
    """With one missing value a column of integers is one of floats."""
    numbers = np.arange(40) % 4
    with_missing = np.where(np.arange(41) < 40, np.resize(numbers, 41), np.nan)
    of_all = drawn(with_missing, 3, 5)
    of_rest = drawn(numbers, 3, 5)
    assert [of_all[f"{number}.0"] for number in range(4)] == [of_rest[str(number)] for number in range(4)]


def test_groups_draw_by_themselves() -> None:
    units = Groups(np.repeat(np.arange(50), 8), records_per_group=1, secret=TEST_SECRET)
    firsts = np.array([units.rows(np.arange(50), 0, step) % 8 for step in range(100)])
    assert len(np.unique(firsts, axis=0)) == 100 and len(np.unique(firsts, axis=1).T) == 50
    other_model = np.array([units.rows(np.arange(50), 1, step) % 8 for step in range(100)])
    assert 0.1 < (firsts == other_model).mean() < 0.15
    assert 0.1 < (firsts[1:] == firsts[:-1]).mean() < 0.15 and 0.1 < (firsts[:, 1:] == firsts[:, :-1]).mean() < 0.15


@pytest.mark.parametrize("bound", [1, 3, 5, 13])
def test_every_record_of_a_group_is_equally_likely(bound: int) -> None:
    """Those of a small group, too, which repeat some of its records once more than others."""
    units = Groups(["ann"] * 10 + ["bob"] * 5, records_per_group=bound, secret=TEST_SECRET)
    rows = np.concatenate([units.rows(np.array([0, 1]), 0, step) for step in range(4000)])
    counts = np.bincount(rows, minlength=15)
    for of_group in (counts[:10], counts[10:]):
        of_lot = of_group - 4000 * (bound // len(of_group))
        assert of_lot.sum() == 4000 * (bound % len(of_group)) and (of_lot >= 0).all()
        # Drawn without replacement, counts vary less than a multinomial's: the test is on the safe side.
        assert not of_lot.any() or chisquare(of_lot).pvalue > 1e-3


def test_refuses_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match="groups=2"):
        units_of(3, groups=["a", "b"], records_per_group=1, augmentations=1, secret=TEST_SECRET)
