"""Aggregates: noisy counts of groups, and what they tell about a single record."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from targets.guards import Aggregate, Query
from targets.guards.keyed import KEY

STATE = {KEY: torch.arange(32, dtype=torch.uint8)}
RNG = np.random.default_rng(0)
X, LOGITS = RNG.normal(size=(500, 4)).astype(np.float32), RNG.normal(size=(500, 3)).astype(np.float32)


def query(at: np.ndarray) -> Query:
    return Query(X[at], LOGITS[at], STATE, lambda x: x)


def test_counts_are_those_of_the_classes_with_noise_of_the_given_size() -> None:
    guard, exact, noise = Aggregate(k=20, noise=3.0), [], []
    for start in range(0, 400):
        at = np.arange(start, start + 20)
        exact.append(np.bincount(LOGITS[at].argmax(axis=1), minlength=3))
        noise.append(guard.counts(query(at)) - exact[-1])
    assert abs(np.mean(noise)) < 4 * 3 / np.sqrt(1200)
    assert np.std(noise) == pytest.approx(3, rel=0.1)
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(exact))[0, 1]) < 0.12


def test_the_same_group_in_any_order_gets_the_same_noise() -> None:
    guard, at = Aggregate(k=10, noise=2.0), np.arange(30)
    counts = guard.counts(query(at))
    np.testing.assert_array_equal(guard.counts(query(RNG.permutation(at))), counts)
    assert not np.array_equal(guard.counts(query(at[:-1])) % 1, counts % 1), "another group, other noise"


def test_a_record_alone_is_a_group_of_its_copies() -> None:
    guard = Aggregate(k=3, noise=4.0)
    answers = guard.answer(query(np.arange(100)))
    groups = [guard.counts(query(np.full(3, record))).argmax() for record in range(100)]
    np.testing.assert_array_equal(answers, groups)
    assert 0.3 < (answers == LOGITS[:100].argmax(axis=1)).mean() < 0.9


def test_too_small_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"guard\.k=10: a query about 9 inputs is refused; ask about at least k"):
        Aggregate(k=10, noise=1.0).counts(query(np.arange(9)))
