"""Aggregates: noisy counts of groups, and what they tell about a single record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from palisade.targets.guards import Aggregate, Query

Ask = Callable[[np.ndarray], Query]
SEEDED_RNG = np.random.default_rng(0)
QUERY_INPUTS, QUERY_LOGITS = (
    SEEDED_RNG.normal(size=(500, 4)).astype(np.float32),
    SEEDED_RNG.normal(size=(500, 3)).astype(np.float32),
)


@pytest.fixture
def query(keyed_state: dict[str, torch.Tensor]) -> Ask:
    """Asks about some of the records."""
    return lambda at: Query(QUERY_INPUTS[at], QUERY_LOGITS[at], keyed_state, lambda x: x)


def test_counts_are_those_of_the_classes_with_noise_of_the_set_size(query: Ask) -> None:
    guard, exact, noise = Aggregate(k=20, noise=3.0), [], []
    for start in range(0, 400):
        at = np.arange(start, start + 20)
        exact.append(np.bincount(QUERY_LOGITS[at].argmax(axis=1), minlength=3))
        noise.append(guard.counts(query(at)) - exact[-1])
    assert abs(np.mean(noise)) < 4 * 3 / np.sqrt(1200)
    assert np.std(noise) == pytest.approx(3, rel=0.1)
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(exact))[0, 1]) < 0.12


def test_the_same_group_in_any_order_gets_the_same_noise(query: Ask) -> None:
    guard, at = Aggregate(k=10, noise=2.0), np.arange(30)
    counts = guard.counts(query(at))
    np.testing.assert_array_equal(guard.counts(query(SEEDED_RNG.permutation(at))), counts)
    assert not np.array_equal(guard.counts(query(at[:-1])) % 1, counts % 1), "another group, other noise"


def test_a_record_alone_is_a_group_of_its_copies(query: Ask) -> None:
    guard = Aggregate(k=3, noise=4.0)
    answers = guard.answer(query(np.arange(100)))
    groups = [guard.counts(query(np.full(3, record))).argmax() for record in range(100)]
    np.testing.assert_array_equal(answers, groups)
    assert 0.3 < (answers == QUERY_LOGITS[:100].argmax(axis=1)).mean() < 0.9


def test_too_small_a_group_is_refused(query: Ask) -> None:
    with pytest.raises(ValueError, match=r"guard\.k=10"):
        Aggregate(k=10, noise=1.0).counts(query(np.arange(9)))


def recovered(query: Ask, changes: Callable[[np.ndarray], np.ndarray]) -> tuple[float, int]:
    """The mean count of 400 answers about one record, asked ten times and changed each time; how many differ."""
    guard, (x, logits, state, ask) = Aggregate(k=10, noise=4.0), query(np.full(10, 7))
    label, answers = logits[0].argmax(), []
    for _ in range(400):
        answers.append(guard.counts(Query(changes(x), logits, state, ask))[label])
    return float(np.mean(answers)), len(set(answers))


def test_changes_of_last_bits_average_nothing_away(query: Ask) -> None:
    """The attack that keys by the very bytes of inputs let through: to 0.2 of the count at noise 4."""

    def last_bits(x: np.ndarray) -> np.ndarray:
        bits = x.view(np.int32) + SEEDED_RNG.integers(-8, 9, size=x.shape, dtype=np.int32)
        return bits.view(np.float32)

    mean, different = recovered(query, last_bits)
    asked_once = Aggregate(k=10, noise=4.0).counts(query(np.full(10, 7)))[QUERY_LOGITS[7].argmax()]
    assert different == 1 and mean == pytest.approx(asked_once) and abs(mean - 10) > 1


def test_whole_steps_of_the_grid_still_average(query: Ask) -> None:
    """Remaining leakage, as on the card: no guard by noise on a query withstands questions that differ."""

    def steps(x: np.ndarray) -> np.ndarray:
        return x + SEEDED_RNG.integers(-40, 41, size=x.shape).astype(np.float32) / 64

    mean, different = recovered(query, steps)
    assert different == 400 and abs(mean - 10) < 4 * 4 / np.sqrt(400)
    assert "no differential privacy" in (Aggregate.note or "") and "Limit how many questions" in (Aggregate.note or "")
