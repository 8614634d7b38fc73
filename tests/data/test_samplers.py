"""Records of a step: partitions when shuffling, independent coins when sampling Poisson."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from palisade.data.loaders import Poisson, Shuffling, poisson_mask
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret

TEST_SECRET = Secret.from_text("samplers")


def steps(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [[row[keep] for row, keep in zip(index, mask, strict=True)] for index, mask in sampler]


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=4), batch=st.integers(1, 40), epoch=st.integers(0, 3))
def test_shuffling_cuts_each_models_members_into_nearly_equal_parts(sizes, batch, epoch):
    members = [np.arange(size) * 3 + k for k, size in enumerate(sizes)]
    schedule = TrainingSchedule(size=40, batch_size=batch, epochs=4)
    parts = steps(Shuffling(members, list(range(len(sizes))), schedule, TEST_SECRET), epoch)
    assert len(parts) == schedule.steps_per_epoch
    for k in range(len(sizes)):
        seen = np.concatenate([step[k] for step in parts])
        assert sorted(seen) == sorted(members[k])
        assert np.ptp([len(step[k]) for step in parts]) <= 1


@pytest.mark.parametrize("kind", [Shuffling, Poisson])
def test_a_model_sees_the_same_alone_and_beside_others(kind):
    schedule = TrainingSchedule(size=50, batch_size=8, epochs=2)
    members = [np.arange(40), np.arange(20, 80)]
    together = steps(kind(members, [4, 9], schedule, TEST_SECRET), 1)
    alone = steps(kind(members[1:], [9], schedule, TEST_SECRET), 1)
    assert all(np.array_equal(both[1], one[0]) for both, one in zip(together, alone, strict=True))
    earlier = steps(kind(members[1:], [9], schedule, TEST_SECRET), 0)
    assert not all(np.array_equal(one[0], other[0]) for one, other in zip(alone, earlier, strict=True))


def test_poisson_takes_every_member_with_probability_q_independently():
    schedule = TrainingSchedule(size=100, batch_size=20, epochs=800)
    members = np.arange(130)  # more than N: the rate is q = B/N all the same
    sampler = Poisson([members], [0], schedule, TEST_SECRET)
    taken = np.zeros((4000, 130))
    for epoch in range(800):
        for i, step in enumerate(steps(sampler, epoch)):
            taken[5 * epoch + i, step[0]] = 1
    assert abs(taken.mean() - 0.2) < 4 * np.sqrt(0.16 / taken.size)
    counts = np.bincount(taken.sum(axis=1).astype(int), minlength=131)
    expected = binom(130, 0.2).pmf(np.arange(131)) * 4000
    middle = slice(16, 38)
    observed = np.append(counts[middle], 4000 - counts[middle].sum())
    assert chisquare(observed, np.append(expected[middle], 4000 - expected[middle].sum())).pvalue > 1e-3
    pairs = np.corrcoef(taken[:-1].ravel(), taken[1:].ravel())[0, 1]
    assert abs(pairs) < 5 / np.sqrt(taken.size)


def test_poisson_mask_at_the_ends_of_the_rate():
    assert poisson_mask(TEST_SECRET, 0, 0, units=10_000, rate=1.0).all()
    assert not poisson_mask(TEST_SECRET, 0, 0, units=10_000, rate=0.0).any()
    bits = TEST_SECRET.bits("batches", 3, 7, count=1000)
    rate = float(bits[5]) / 2**32
    assert np.array_equal(poisson_mask(TEST_SECRET, 3, 7, units=1000, rate=rate), bits / 2**32 < rate)


def test_poisson_tells_the_accountant_its_numbers():
    sampler = Poisson([np.arange(10)], [0], TrainingSchedule(size=10, batch_size=3, epochs=2), TEST_SECRET)
    assert sampler.poisson and not Shuffling.poisson
    assert (sampler.sampling_rate, sampler.public_size, sampler.steps, len(sampler)) == (0.3, 10, 8, 4)
