"""MemGuard: the noise of the published algorithm, the probability of the second phase, and a coin of the query."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from palisade.data.secret import Secret
from palisade.targets.guards import MemGuard, Query, adversarial_noise, discriminator
from palisade.targets.guards.memguard import DISCRIMINATOR_PREFIX
from palisade.targets.guards.probabilities import probabilities

Weights = dict[str, torch.Tensor]
CLASS_COUNT, TEST_SECRET = 6, Secret.from_text("memguard")


def logits_of(count: int, lead: float, seed: int) -> np.ndarray:
    """Answers that prefer one class by about `lead`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, CLASS_COUNT))
    logits[np.arange(count), rng.integers(CLASS_COUNT, size=count)] += lead + rng.normal(size=count)
    return logits.astype(np.float32)


MEMBER_LOGITS, REFERENCE_LOGITS = logits_of(300, 5, 0), logits_of(200, 3, 1)


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_noise, "MAX_SEARCH_STEPS", 50)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    learned = discriminator.fit(MEMBER_LOGITS, REFERENCE_LOGITS, TEST_SECRET, 0)
    return {name: weight.double() for name, weight in learned.items()}


@pytest.fixture(scope="module")
def state(weights: dict[str, torch.Tensor], keyed_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**keyed_state, **{DISCRIMINATOR_PREFIX + name: weight.float() for name, weight in weights.items()}}


def softmax(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits).double().softmax(dim=-1)


def test_discriminator_takes_the_surer_answers_for_members(weights: dict[str, torch.Tensor]) -> None:
    inside = discriminator.log_odds(softmax(logits_of(500, 5, 2)), weights)
    outside = discriminator.log_odds(softmax(logits_of(500, 3, 3)), weights)
    assert (inside > 0).double().mean() > 0.7 and (outside < 0).double().mean() > 0.7, "neither side outweighs"


def test_discriminator_knows_no_order_of_classes(weights: dict[str, torch.Tensor]) -> None:
    p = softmax(MEMBER_LOGITS)
    shuffled = p[:, torch.randperm(CLASS_COUNT)]
    torch.testing.assert_close(discriminator.log_odds(shuffled, weights), discriminator.log_odds(p, weights))


def objective(
    z: torch.Tensor, z0: torch.Tensor, weights: dict[str, torch.Tensor], c3: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """logit h, and the sum that MemGuard minimizes, of one query, as the paper has it."""
    label = z0.argmax()
    others = torch.cat([z[:label], z[label + 1 :]])
    odds = discriminator.log_odds(z.softmax(-1)[None], weights)[0]
    distortion = (z.softmax(-1) - z0.softmax(-1)).abs().sum()
    return odds, odds.abs() + 10 * F.relu(others.max() - z[label]) + c3 * distortion


def test_gradients_are_those_of_autograd(weights: dict[str, torch.Tensor]) -> None:
    start = torch.from_numpy(MEMBER_LOGITS[:20]).double()
    z = start + torch.randn(20, CLASS_COUNT, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    label = start.argmax(dim=-1, keepdim=True)
    assert (z.argmax(dim=-1, keepdim=True) != label).any(), "some classes have overtaken the label"
    odds, gradient = adversarial_noise._slope(z, label, start.softmax(dim=-1), weights, 3.0)
    for row, at in enumerate(z):
        at = at.requires_grad_()
        expected, loss = objective(at, start[row], weights, 3.0)
        torch.testing.assert_close(odds[row], expected)
        torch.testing.assert_close(gradient[row], torch.autograd.grad(loss, at)[0])


def naive_noise(z0: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """One query by algorithm 1 of Jia et al. 2019: c₃ grows until no noise is found, the last one that was is taken."""
    noisy, before = z0, objective(z0, z0, weights, 0)[0]
    c3 = 0.1
    while c3 <= 1e5:
        z, flipped = z0, False
        for _ in range(adversarial_noise.MAX_SEARCH_STEPS - 1):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(z, z0, weights, c3)[1], z)
            z = torch.round((z - 0.1 * gradient / gradient.norm()) * 2**24) / 2**24
            flipped = bool(objective(z, z0, weights, 0)[0] * before <= 0 and z.argmax() == z0.argmax())
            if flipped:
                break
        if not flipped:
            break
        noisy, c3 = z.detach(), 10 * c3
    return noisy


def test_noise_is_that_of_the_published_algorithm(
    weights: dict[str, torch.Tensor],
) -> None:
    logits = np.concatenate([MEMBER_LOGITS[:6], REFERENCE_LOGITS[:6]])
    noisy, nearer = adversarial_noise.with_noise(logits, weights)
    successes = 0
    for row, z0 in enumerate(torch.from_numpy(logits).double()):
        if (expected := naive_noise(z0, weights)) is not z0:
            np.testing.assert_allclose(noisy[row], expected, atol=1e-6)
            successes += nearer[row]
    assert successes > 6, "noise was found for most"


def test_where_steps_find_nothing_the_least_scaling_changes_the_discriminators_mind(
    weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversarial_noise, "MAX_SEARCH_STEPS", 1)  # the first step is never far enough
    noisy, _ = adversarial_noise.with_noise(MEMBER_LOGITS, weights)
    factors = noisy / MEMBER_LOGITS
    np.testing.assert_allclose(factors, factors[:, :1].repeat(CLASS_COUNT, axis=1), rtol=1e-3)
    mind = discriminator.log_odds(softmax(MEMBER_LOGITS), weights) > 0
    moved = np.abs(factors[:, 0] - 1) > 1e-6
    for nearer, changes in ((1, True), (0.98, False)):  # the whole way, and two in a hundred less
        scaled = softmax(MEMBER_LOGITS * factors[:, :1] ** nearer)
        assert (((discriminator.log_odds(scaled, weights) > 0) != mind).numpy()[moved] == changes).mean() > 0.95
    assert moved.mean() > 0.9


def test_noise_changes_the_discriminators_mind_and_never_the_label(weights: dict[str, torch.Tensor]) -> None:
    logits = np.concatenate([MEMBER_LOGITS, REFERENCE_LOGITS])
    noisy, nearer = adversarial_noise.with_noise(logits, weights)
    before = discriminator.log_odds(softmax(logits), weights).numpy()
    after = discriminator.log_odds(torch.from_numpy(noisy).softmax(-1), weights).numpy()
    moved = (np.abs(noisy - logits) > 1e-6).any(axis=1)
    assert moved.mean() > 0.95
    assert ((before > 0) != (after > 0))[moved].all()
    assert (nearer == (np.abs(after) < np.abs(before)))[moved].all() and not nearer[~moved].any()
    np.testing.assert_array_equal(noisy.argmax(axis=-1), logits.argmax(axis=-1))


def test_noise_is_published_with_the_probability_that_keeps_the_budget(weights: Weights, state: Weights) -> None:
    budget = 0.2
    logits = np.repeat(MEMBER_LOGITS[:8], 500, axis=0)
    x = np.random.default_rng(0).normal(size=(len(logits), 3)).astype(np.float32)
    answers = MemGuard(budget=budget).answer(Query(x, logits, state, lambda x: x))
    noisy, nearer = adversarial_noise.with_noise(logits[::500], weights)
    distortion = np.abs(probabilities(noisy) - probabilities(logits[::500])).sum(axis=1)
    expected = np.where(nearer, np.minimum(1, budget / distortion), 0)
    published = (answers != probabilities(logits)).any(axis=1).reshape(8, 500).mean(axis=1)
    assert ((expected > 0.05) & (expected < 0.95)).any(), "some are published now and then"
    np.testing.assert_allclose(published, expected, atol=4 * 0.5 / np.sqrt(500))


def test_changes_of_last_bits_toss_no_other_coin(weights: Weights, state: Weights) -> None:
    """Otherwise some of the answers to one record would come without the noise."""
    noisy, nearer = adversarial_noise.with_noise(MEMBER_LOGITS, weights)
    distortion = np.abs(probabilities(noisy) - probabilities(MEMBER_LOGITS)).sum(axis=1)
    far = int(np.argmax(nearer * distortion))
    logits, guard = np.resize(MEMBER_LOGITS[far], (400, CLASS_COUNT)), MemGuard(budget=float(distortion[far]) / 2)
    record = np.random.default_rng(5).normal(size=(1, 20)).astype(np.float32)
    bits = record.view(np.int32) + np.random.default_rng(6).integers(-8, 9, size=(400, 20), dtype=np.int32)
    answers = guard.answer(Query(bits.view(np.float32), logits, state, lambda x: x))
    assert len(np.unique(answers, axis=0)) == 1
    steps = record + np.arange(400, dtype=np.float32)[:, None] / 64
    answers = guard.answer(Query(steps, logits, state, lambda x: x))
    assert len(np.unique(answers, axis=0)) == 2, "whole steps toss others"


def test_no_limit_publishes_all_noise_that_brings_it_nearer_to_a_guess(weights: Weights, state: Weights) -> None:
    x = np.arange(len(MEMBER_LOGITS), dtype=np.float32)[:, None]
    answers = MemGuard(budget=2).answer(Query(x, MEMBER_LOGITS, state, lambda x: x))
    noisy, nearer = adversarial_noise.with_noise(MEMBER_LOGITS, weights)
    np.testing.assert_array_equal(answers[nearer], probabilities(noisy)[nearer])
    np.testing.assert_array_equal(answers[~nearer], probabilities(MEMBER_LOGITS)[~nearer])


def test_many_queries_at_once_are_as_many_alone(weights: dict[str, torch.Tensor]) -> None:
    logits = np.resize(
        np.concatenate([MEMBER_LOGITS, REFERENCE_LOGITS]), (adversarial_noise.QUERIES_AT_ONCE + 500, CLASS_COUNT)
    )
    noisy, _ = adversarial_noise.with_noise(logits, weights)
    some = np.random.default_rng(0).permutation(len(logits))[:333]
    np.testing.assert_array_equal(adversarial_noise.with_noise(logits[some], weights)[0], noisy[some])


def test_memory_mapped_answers_are_left_as_they_are(weights: dict[str, torch.Tensor]) -> None:
    logits = MEMBER_LOGITS[:5].copy()
    logits.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adversarial_noise.with_noise(logits, weights)
