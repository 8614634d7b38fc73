"""The linear model under a run's claim: its noise is that of the claim, and a run below it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import below_linear
from palisade.evaluation.measuring.baselines import linear
from palisade.evaluation.measuring.private_linear import noise_multiplier, private_linear, private_linear_utilities
from palisade.evaluation.result import Result, Row
from tests.evaluation.test_linear_baseline import dataset

ACCURACY = private_linear("test_accuracy")


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1, 1e-5), (8, 1e-3), (64, 1e-4)])
def test_noise_is_that_of_the_gaussian_mechanism(epsilon: float, delta: float) -> None:
    """By the definition: the hockey-stick divergence of two normal laws one apart, integrated."""
    sigma = noise_multiplier(epsilon, delta, 1)
    x = np.linspace(-40 * sigma, 40 * sigma + 1, 2_000_001)

    def density(center: float) -> np.ndarray:
        return np.exp(-0.5 * ((x - center) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))

    excess = np.maximum(density(1) - np.exp(epsilon) * density(0), 0)
    assert np.trapezoid(excess, x) == pytest.approx(delta, rel=1e-3)
    assert noise_multiplier(epsilon, delta, 60) == pytest.approx(sigma * np.sqrt(60))


def test_more_noise_costs_accuracy_and_little_noise_none() -> None:
    data = dataset()
    at = {
        epsilon: private_linear_utilities(data, 200, 0, epsilon, 1e-3)[ACCURACY] for epsilon in (0.05, 1.0, 8.0, 100.0)
    }
    assert at[0.05] < at[1.0] < at[100.0] and at[100.0] > 0.85


def test_words_have_none() -> None:
    assert private_linear_utilities(dataset(kind=np.int64), 200, 0, 1.0, 1e-3) == {}


@pytest.mark.parametrize(
    ("own", "private", "unprotected", "expected"),
    [
        (0.80, 0.75, 0.95, []),  # as good as the claim allows
        (0.80, 0.90, 0.95, ["below a private linear model", "below a linear model"]),
        (0.80, 0.90, 0.70, ["below a private linear model"]),
        (0.80, None, 0.95, ["below a linear model"]),
    ],
)
def test_it_says_which_of_the_two_is_meant(
    make_result: Callable[..., Result], own: float, private: float | None, unprotected: float, expected: list[str]
) -> None:
    result = make_result("dp_sgd", strength=4, accuracy=own)
    rows = [Row(metric=linear("test_accuracy"), value=unprotected)]
    rows += [] if private is None else [Row(metric=ACCURACY, value=private)]
    result = replace(result, rows=[*result.rows, *rows])
    raised = list(below_linear(result, Comparison([result])))
    assert [flag.name for flag in raised] == expected
    assert all("80.0 %" in flag.sentence for flag in raised)
