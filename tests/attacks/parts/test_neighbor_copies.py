"""Edited copies: a tenth of the tokens, at least one, none on padding, by the law of the reference records."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.attacks.parts.neighbor_copies import COPY_COUNT, neighbor_copies

TOKEN_LAW = np.array([0.0, 0.1, 0.9, 0.0])


def test_a_tenth_of_the_tokens_is_replaced_and_at_least_one() -> None:
    lengths = np.array([1, 4, 10, 31, 40])
    mask = np.arange(40) < lengths[:, None]
    copies = neighbor_copies(np.full((5, 40), 3), mask, TOKEN_LAW)
    assert copies.shape == (COPY_COUNT, 5, 40)
    changed = copies != 3
    assert not changed[:, ~mask].any()
    np.testing.assert_array_equal(changed.sum(axis=2), np.tile([1, 1, 1, 3, 4], (COPY_COUNT, 1)))
    assert 0.8 < (copies[changed] == 2).mean() < 0.97 and set(copies[changed]) == {1, 2}
    assert len(np.unique(changed[:, 4].argmax(axis=1))) > 5, "copies differ in what they replace"
    np.testing.assert_array_equal(copies, neighbor_copies(np.full((5, 40), 3), mask, TOKEN_LAW))
    assert (copies != neighbor_copies(np.full((5, 40), 3), mask, TOKEN_LAW, seed=1)).any()
    with pytest.raises(ValueError, match=r"law: expected probabilities that sum to 1, not to 2"):
        neighbor_copies(np.full((5, 40), 3), mask, 2 * TOKEN_LAW)


def test_padding_and_company_change_no_copy() -> None:
    rng = np.random.default_rng(0)
    x, lengths = rng.integers(1, 3, (6, 12)), rng.integers(1, 13, 6)
    copies = neighbor_copies(x, np.arange(12) < lengths[:, None], TOKEN_LAW)
    for record, length in enumerate(lengths):
        alone = neighbor_copies(x[[record], :length], np.ones((1, length), dtype=bool), TOKEN_LAW)
        np.testing.assert_array_equal(copies[:, record, :length], alone[:, 0])
