"""Whatever the way of clipping, no record moves the sum by more than C."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.defenses.dp_sgd.accounting import Phase, accounted
from palisade.defenses.dp_sgd.clipping import CLIPPING_CLASSES, Adaptive, Flat, PerLayer


@settings(deadline=None, max_examples=50)
@given(
    way=st.sampled_from(sorted(CLIPPING_CLASSES)),
    norms=st.lists(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), min_size=1, max_size=5),
    bound=st.floats(2**-10, 2**10, width=32),
)
def test_clipped_norms_stay_within_the_bound(way: str, norms: list[list[float]], bound: float) -> None:
    squares = torch.tensor(norms, dtype=torch.float64).square()  # (layers, records)
    factors = CLIPPING_CLASSES[way](bound).factors(squares.sum(0).sqrt(), squares)
    assert ((factors.square() * squares).sum(0).sqrt() <= bound * (1 + 1e-9)).all()


def test_flat_leaves_small_gradients_alone_and_per_layer_clips_layers_by_themselves() -> None:
    squares = torch.tensor([[0.01, 9.0], [0.04, 1.0]])
    norms = squares.sum(0).sqrt()
    torch.testing.assert_close(Flat(1.0).factors(norms, squares), torch.tensor([1.0, 10**-0.5]))
    root = math.sqrt(0.5)
    expected = torch.tensor([[1.0, root / 3], [1.0, root / 1]])
    torch.testing.assert_close(PerLayer(1.0).factors(norms, squares), expected)


def test_automatic_normalizes() -> None:
    norms = torch.tensor([0.0, 1.0, 1e4])
    factors = CLIPPING_CLASSES["automatic"](2.0).factors(norms, norms[None] ** 2)
    torch.testing.assert_close(factors * norms, torch.tensor([0.0, 2 / 1.01, 2.0]), rtol=1e-5, atol=0)


def test_every_model_of_a_stack_has_its_own_bound() -> None:
    clipping = Adaptive(1.0, models=2)
    clipping.bounds = [1.0, 4.0]
    norms = torch.full((2, 3), 8.0)
    assert clipping.factors(norms, norms[None] ** 2).tolist() == [[0.125] * 3, [0.5] * 3]


def test_adaptive_finds_the_median() -> None:
    clipping = Adaptive(100.0)
    clipping.gradient_noise(0.0, expected_batch_size=400)
    norms = torch.from_numpy(np.random.default_rng(0).lognormal(1.0, 0.5, 400))
    for _ in range(120):
        clipping.observe(norms[:150])
        clipping.observe(norms[150:])
        clipping.adapt(lambda: torch.zeros(1), None)
    assert clipping.bounds[0] == pytest.approx(float(norms.median()), rel=0.05)


def test_adaptive_ignores_padded_rows() -> None:
    one, padded = Adaptive(1.0), Adaptive(1.0)
    for clipping, norms in ((one, [2.0, 3.0, 0.5]), (padded, [2.0, 0.0, 3.0, 0.5, 0.0])):
        clipping.gradient_noise(0.0, expected_batch_size=3)
        clipping.observe(torch.tensor(norms))
        clipping.adapt(lambda: torch.zeros(1), None)
    assert one.bounds == padded.bounds and one.bounds[0] == pytest.approx(math.exp(0.2 / 6))


@pytest.mark.parametrize("expected", [10.0, 1000.0])
def test_adaptive_count_is_paid_for(expected: float) -> None:
    """Without sampling the count and the gradients are one Gaussian mechanism, of 1/σ² = 1/σ_g² + 1/(2σ_b)²."""
    clipping = Adaptive(1.0)
    sigma = 2.0
    gradients = clipping.gradient_noise(sigma, expected)
    assert gradients > sigma and clipping.count_noise >= sigma
    assert gradients**-2 + (2 * clipping.count_noise) ** -2 == pytest.approx(sigma**-2)
    assert accounted((Phase(gradients, 1.0, 1),), 1e-5).epsilon < accounted((Phase(sigma, 1.0, 1),), 1e-5).epsilon


def test_adaptive_count_is_noised_and_summed_over_processes() -> None:
    clipping = Adaptive(1.0)
    clipping.gradient_noise(2.0, expected_batch_size=40)
    clipping.observe(torch.tensor([0.5, 0.5]))
    clipping.adapt(lambda: torch.tensor([1.5]), lambda count: count.mul_(2))
    assert clipping.bounds[0] == pytest.approx(math.exp(-0.2 * (2 + 1.5 * clipping.count_noise) / 40))


def test_adaptive_without_noise_draws_nothing_that_matters() -> None:
    clipping = Adaptive(1.0)
    assert clipping.gradient_noise(0.0, expected_batch_size=4) == 0.0 and clipping.count_noise == 0.0
