"""Normal numbers against the normal distribution, tails included."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import noise as module
from palisade.defenses.dp_sgd.noise import VALUES_PER_BLOCK, gaussian

TEST_SECRET = Secret.from_text("test")
NOISE_VALUES = 8 * VALUES_PER_BLOCK
ZERO_WORD = 2**31
"""As a word for the radius, it makes the radius 0."""


def normal(bits: np.ndarray, scale: float = 1.0, summands: int = 1) -> np.ndarray:
    remaining = bits

    def draw(words: np.ndarray) -> None:
        nonlocal remaining
        words[:], remaining = remaining[: len(words)], remaining[len(words) :]

    out = np.full(len(bits) // summands, np.nan, np.float32)
    return gaussian(draw, out, scale=scale, summands=summands).astype(float)


def draw(model: int = 0, step: int = 0, purpose: str = "noise", scale: float = 1.0, summands: int = 1) -> np.ndarray:
    return normal(TEST_SECRET.bits(purpose, model, step, count=summands * NOISE_VALUES), scale, summands)


@pytest.mark.parametrize("summands", [1, 4])
@pytest.mark.parametrize(
    "part", [slice(None, VALUES_PER_BLOCK // 2), slice(VALUES_PER_BLOCK // 2, VALUES_PER_BLOCK), slice(None)]
)
def test_is_standard_normal(part: slice, summands: int) -> None:
    z = draw(summands=summands)[part]
    assert stats.kstest(z, "norm").pvalue > 1e-4
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], z.size)
    assert low < (z**2).sum() < high
    for tail in (1, 3, 4):
        for beyond in ((z > tail).sum(), (z < -tail).sum()):
            assert stats.binomtest(int(beyond), z.size, stats.norm.sf(tail)).pvalue > 1e-4


@pytest.mark.parametrize("summands", [1, 4])
def test_streams_and_neighbors_are_uncorrelated_in_value_and_size(summands: int) -> None:
    streams = ({}, {"step": 1}, {"model": 1}, {"purpose": "other"})
    z = np.stack([draw(**stream, summands=summands) for stream in streams])  # type: ignore[arg-type]
    pairs = np.moveaxis(z[0].reshape(-1, 2, VALUES_PER_BLOCK // 2), 1, 0).reshape(
        2, -1
    )  # the two of a pair share their radius
    blocks = z[0].reshape(-1, VALUES_PER_BLOCK)
    for moment in (lambda x: x, np.square):
        assert np.abs(np.corrcoef(moment(z)) - np.eye(4)).max() < 5 / np.sqrt(NOISE_VALUES)
        assert abs(np.corrcoef(moment(pairs))[0, 1]) < 5 / np.sqrt(NOISE_VALUES / 2)
        assert abs(np.corrcoef(moment(z[0, 1:]), moment(z[0, :-1]))[0, 1]) < 5 / np.sqrt(NOISE_VALUES)
        assert np.abs(np.corrcoef(moment(blocks)) - np.eye(len(blocks))).max() < 5 / np.sqrt(VALUES_PER_BLOCK)


@pytest.mark.parametrize("summands", [1, 4])
def test_scale_is_the_standard_deviation(summands: int) -> None:
    np.testing.assert_allclose(draw(scale=0.3, summands=summands), 0.3 * draw(summands=summands), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_extreme_bits_give_finite_numbers(word: int) -> None:
    z = normal(np.full(64, word, dtype=np.uint32))
    assert np.isfinite(z).all() and np.abs(z).max() < 6.7


def formula(bits: np.ndarray) -> np.ndarray:
    """Box and Muller's, of one block."""
    one, two = bits.view(np.int32).astype(float).reshape(2, -1) / 2**31
    radius = np.sqrt(-2 * np.log(np.abs(one)))
    return np.concatenate([radius * np.cos(np.pi * two), radius * np.sin(np.pi * two)])


# Near a radius of 0, float32 keeps 24 bits of the uniform itself, hence an absolute tolerance.
def test_equals_the_formula() -> None:
    bits = TEST_SECRET.bits("noise", count=2000)
    np.testing.assert_allclose(normal(bits), formula(bits), atol=1e-5)


def test_equals_the_scaled_sum_of_the_formula_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES_PER_BLOCK", 8)
    bits = TEST_SECRET.bits("noise", count=3 * 20)  # blocks of 8, 8 and 4 numbers, each from three times as many words
    blocks = [(bits[0:24], 8), (bits[24:48], 8), (bits[48:60], 4)]
    sums = [sum(formula(words[k : k + size]) for k in range(0, 3 * size, size)) for words, size in blocks]
    expected = 0.7 * np.concatenate(sums) / np.sqrt(3)
    np.testing.assert_allclose(normal(bits, scale=0.7, summands=3), expected, atol=1e-5)


def test_the_first_blocks_do_not_depend_on_how_many_follow() -> None:
    bits = TEST_SECRET.bits("noise", count=4 * NOISE_VALUES)
    few = normal(bits[: 4 * 2 * VALUES_PER_BLOCK], summands=4)
    np.testing.assert_array_equal(few, normal(bits, summands=4)[: 2 * VALUES_PER_BLOCK])


@pytest.mark.parametrize("number", range(4))
def test_every_one_of_four_summands_counts_half(number: int) -> None:
    bits = TEST_SECRET.bits("noise", count=4 * 100).reshape(4, 100).copy()
    bits[np.arange(4) != number, :50] = ZERO_WORD
    np.testing.assert_allclose(normal(bits.flatten(), summands=4), normal(bits[number]) / 2, rtol=1e-6, atol=0)
