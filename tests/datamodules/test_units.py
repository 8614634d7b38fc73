"""Units of privacy bring the same number of rows into a step, whatever they consist of."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.secret import Secret
from datamodules.units import Groups, units_of

SECRET = Secret.from_text("test")


def test_a_record_repeated_side_by_side() -> None:
    units = units_of(5, groups=None, records_per_group=1, augmentations=3, secret=SECRET)
    assert (len(units), units.rows_per_unit, units.name) == (5, 3, "record")
    assert units.rows(np.array([1, 4]), 0, 0).tolist() == [1, 1, 1, 4, 4, 4]


def groups(bound: int, augmentations: int = 1) -> Groups:
    names = ["ann", "bob", "ann", "cy", "ann", "bob", "ann"]
    return Groups(names, records_per_group=bound, augmentations=augmentations, secret=SECRET)


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


def test_refuses_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match="groups=2 values cannot name the groups of 3 records; give one for each"):
        units_of(3, groups=["a", "b"], records_per_group=1, augmentations=1, secret=SECRET)
