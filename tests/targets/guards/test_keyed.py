"""Randomness that belongs to a query."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from palisade.targets.guards.grid import STEP_KEY
from palisade.targets.guards.keyed import STATE_KEY, digests, generators

State = dict[str, torch.Tensor]
QUERY_INPUTS = np.random.default_rng(0).normal(size=(50, 2, 3)).astype(np.float32)


def test_a_digest_depends_on_the_input_and_the_key_alone(keyed_state: State) -> None:
    hashes, other = (
        digests(QUERY_INPUTS, keyed_state),
        {**keyed_state, STATE_KEY: torch.full((32,), 2, dtype=torch.uint8)},
    )
    assert len(set(hashes)) == len(QUERY_INPUTS)
    assert (
        digests(QUERY_INPUTS[::-1], keyed_state) == hashes[::-1]
        and digests(QUERY_INPUTS[7:8], keyed_state) == hashes[7:8]
    )
    assert not set(hashes) & set(digests(QUERY_INPUTS, other))


def test_many_inputs_are_hashed_like_one(keyed_state: State) -> None:
    many = np.random.default_rng(1).normal(size=(600, 3)).astype(np.float32)
    assert digests(many, keyed_state) == [digests(many[k : k + 1], keyed_state)[0] for k in range(600)]
    assert digests(many[:0], keyed_state) == []


def test_last_bits_change_no_digest_and_a_step_does(keyed_state: State) -> None:
    on_grid = np.rint(64 * QUERY_INPUTS) / 64
    for changed in (
        np.nextafter(QUERY_INPUTS, np.float32(9)),
        np.nextafter(QUERY_INPUTS, np.float32(-9)),
        QUERY_INPUTS + np.float32(1e-6),
    ):
        assert digests(changed, keyed_state) == digests(QUERY_INPUTS, keyed_state)
    one = on_grid.copy()
    one[:, 0, 0] += 1 / 64
    assert not set(digests(one, keyed_state)) & set(digests(on_grid, keyed_state))


def test_whole_numbers_need_no_grid_and_others_do(keyed_state: State) -> None:
    bare = {name: value for name, value in keyed_state.items() if name != STEP_KEY}
    words = np.array([[3, 5]])
    assert digests(words, bare) == digests(words, keyed_state)
    with pytest.raises(
        ValueError, match="the guard's state holds no grid of inputs; it was written by another version"
    ):
        digests(QUERY_INPUTS, bare)


def test_equal_inputs_are_equal_however_they_are_written(keyed_state: State) -> None:
    bits = np.array([[0.0, -0.0, 1.0]], dtype=np.float32)
    written = (bits, bits.astype(np.float64), np.abs(bits), np.asfortranarray(bits))
    assert len({digests(x, keyed_state)[0] for x in written}) == 1
    words = np.array([[3, 5]])
    same, other = words.astype(np.int32), words + 1
    assert digests(words, keyed_state) == digests(same, keyed_state) != digests(other, keyed_state)


def test_draws_look_independent(keyed_state: State) -> None:
    x = np.arange(4000, dtype=np.float32)[:, None]
    drawn = np.array([rng.random() for rng in generators(x, keyed_state)])
    assert abs(drawn.mean() - 0.5) < 4 / np.sqrt(12 * 4000)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(4000)
