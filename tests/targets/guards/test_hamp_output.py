"""HAMP's output step: the query's order of classes, and a random input's confidences."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from palisade.data.preprocessing import Scale
from palisade.data.tokens import Tokens
from palisade.targets.guards import HAMPOutput, Query
from palisade.targets.guards.hamp_output import VALUES_KEY, _values
from palisade.targets.guards.probabilities import probabilities

SEEDED_RNG = np.random.default_rng(0)
VALUES_OF = {VALUES_KEY: torch.tensor([0.0, 1.0])}
NETWORK_WEIGHTS = SEEDED_RNG.normal(size=(12, 5)).astype(np.float32)
BINARY_INPUTS = SEEDED_RNG.integers(2, size=(40, 12)).astype(np.float32)


def test_ranks_are_the_querys_and_values_a_random_inputs(keyed_state: dict[str, torch.Tensor]) -> None:
    asked = []

    def ask(x: np.ndarray) -> np.ndarray:
        asked.append(x)
        return x @ NETWORK_WEIGHTS

    logits = 3 * BINARY_INPUTS @ NETWORK_WEIGHTS
    answers = HAMPOutput().answer(Query(BINARY_INPUTS, logits, keyed_state | VALUES_OF, ask))
    (drawn,) = asked
    assert drawn.shape == BINARY_INPUTS.shape and set(np.unique(drawn)) == {0, 1} and 0.4 < drawn.mean() < 0.6
    assert len(np.unique(drawn, axis=0)) > 30, "each query has its own"
    np.testing.assert_array_equal(answers.argsort(axis=1), logits.argsort(axis=1))
    np.testing.assert_allclose(np.sort(answers), np.sort(probabilities(drawn @ NETWORK_WEIGHTS)))


def test_confidence_tells_nothing_but_the_order(keyed_state: dict[str, torch.Tensor]) -> None:
    sure, unsure = BINARY_INPUTS @ NETWORK_WEIGHTS, 0.1 * BINARY_INPUTS @ NETWORK_WEIGHTS
    state = keyed_state | VALUES_OF
    same = [
        HAMPOutput().answer(Query(BINARY_INPUTS, logits, state, lambda x: x @ NETWORK_WEIGHTS))
        for logits in (sure, unsure)
    ]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize(
    ("preprocessing", "x", "values"),
    [
        (Tokens(length=4, buckets=50), np.ones((3, 4), dtype=np.int64), np.arange(50)),
        (Scale(shape=(4,)), np.eye(4, dtype=np.float32), [0, 1]),
    ],
)
def test_random_inputs_are_of_the_kind_of_the_data(preprocessing, x, values) -> None:
    fitter = SimpleNamespace(dataset=SimpleNamespace(preprocessing=preprocessing, x=x))
    drawn_from = _values(fitter)
    np.testing.assert_array_equal(drawn_from, values)
    assert drawn_from.dtype == x.dtype


def test_random_numbers_are_standard_normal() -> None:
    fitter = SimpleNamespace(dataset=SimpleNamespace(preprocessing=Scale(shape=(1,)), x=np.ones((3, 1)) / 2))
    values = _values(fitter)
    assert abs(values.mean()) < 1e-6 and values.std() == pytest.approx(1, abs=0.01)
