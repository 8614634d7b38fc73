"""Normal numbers against the normal distribution, tails included."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from datamodules.secret import Secret
from defenses.dp_sgd.gaussian import gaussian

SECRET = Secret.from_text("test")
COUNT = 1_000_000


def draw(model: int = 0, step: int = 0, purpose: str = "noise", scale: float = 1.0) -> np.ndarray:
    return gaussian(SECRET.bits(purpose, model, step, count=COUNT), np.empty(COUNT, np.float32), scale=scale).astype(
        float
    )


@pytest.mark.parametrize("half", [slice(None, COUNT // 2), slice(COUNT // 2, None), slice(None)])
def test_is_standard_normal(half: slice) -> None:
    z = draw()[half]
    assert stats.kstest(z, "norm").pvalue > 1e-4
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], z.size)
    assert low < (z**2).sum() < high
    for tail in (1, 3, 4):
        for beyond in ((z > tail).sum(), (z < -tail).sum()):
            assert stats.binomtest(int(beyond), z.size, stats.norm.sf(tail)).pvalue > 1e-4


def test_streams_and_neighbors_are_uncorrelated_in_value_and_size() -> None:
    z = np.stack([draw(), draw(step=1), draw(model=1), draw(purpose="other")])
    first, second = np.split(z[0], 2)  # the two of a pair share their radius
    for moment in (lambda x: x, np.square):
        assert np.abs(np.corrcoef(moment(z)) - np.eye(4)).max() < 5 / np.sqrt(COUNT)
        assert abs(np.corrcoef(moment(first), moment(second))[0, 1]) < 5 / np.sqrt(COUNT / 2)
        assert abs(np.corrcoef(moment(z[0, 1:]), moment(z[0, :-1]))[0, 1]) < 5 / np.sqrt(COUNT)


def test_scale_is_the_standard_deviation() -> None:
    np.testing.assert_allclose(draw(scale=0.3), 0.3 * draw(), rtol=1e-5)


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_bits_give_finite_numbers(word: int) -> None:
    z = gaussian(np.full(64, word, dtype=np.uint32), np.empty(64, np.float32), scale=1.0)
    assert np.isfinite(z).all() and np.abs(z).max() < 5.9


def test_equals_the_formula() -> None:
    bits = SECRET.bits("noise", count=2000)
    one, two = ((bits >> 8) * 2.0**-24 + 2.0**-25).reshape(2, -1)
    radius = np.sqrt(-2 * np.log(one))
    expected = np.concatenate([radius * np.cos(2 * np.pi * two), radius * np.sin(2 * np.pi * two)])
    # Near a radius of 0, float32 keeps 24 bits of the uniform itself, hence an absolute tolerance.
    np.testing.assert_allclose(gaussian(bits, np.empty(2000, np.float32), scale=1.0), expected, atol=1e-5)
