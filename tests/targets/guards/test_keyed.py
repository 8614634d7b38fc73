"""Randomness that belongs to a query."""

from __future__ import annotations

import numpy as np
import torch

from targets.guards.keyed import KEY, digests, generators

ONE, OTHER = ({KEY: torch.full((32,), value, dtype=torch.uint8)} for value in (1, 2))
X = np.random.default_rng(0).normal(size=(50, 2, 3)).astype(np.float32)


def test_a_digest_depends_on_the_input_and_the_key_alone() -> None:
    found = digests(X, ONE)
    assert len(set(found)) == len(X)
    assert digests(X[::-1], ONE) == found[::-1] and digests(X[7:8], ONE) == found[7:8]
    assert not set(found) & set(digests(X, OTHER))


def test_equal_inputs_are_equal_however_they_are_written() -> None:
    bits = np.array([[0.0, -0.0, 1.0]], dtype=np.float32)
    written = (bits, bits.astype(np.float64), np.abs(bits), np.asfortranarray(bits))
    assert len({digests(x, ONE)[0] for x in written}) == 1
    words = np.array([[3, 5]])
    assert digests(words, ONE) == digests(words.astype(np.int32), ONE) != digests(words + 1, ONE)


def test_draws_look_independent() -> None:
    x = np.arange(4000, dtype=np.float32)[:, None]
    drawn = np.array([rng.random() for rng in generators(x, ONE)])
    assert abs(drawn.mean() - 0.5) < 4 / np.sqrt(12 * 4000)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(4000)
