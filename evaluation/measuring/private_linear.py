"""A linear model under the same claim as a run: what the simplest private training reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm

from palisade.data.dataset import Dataset
from palisade.data.schedule import TrainingSchedule
from palisade.evaluation.measuring.baselines import linear_inputs, mean_utilities
from palisade.targets.defaults import PRIVATE_EPOCHS, learning_rate

LINEAR_MOMENTUM, CLIPPING_NORM = 0.9, 1.0
PRIVATE_FITS = 3
"""Fits that are averaged: at a small ε, noise moves the accuracy of a single one by points."""
SMALLEST_NOISE, LARGEST_NOISE = 1e-3, 1e7


def private_linear(metric: str) -> str:
    """The name of a metric of a private linear model, such as `private_linear_test_accuracy`."""
    return f"private_linear_{metric}"


@lru_cache(maxsize=64)
def private_linear_utilities(
    dataset: Dataset, size: int, seed: int, epsilon: float, delta: float
) -> Mapping[str, float]:
    """Utility by every measure of linear models that are (ε, δ)-differentially private for one record.

    Full-batch gradient descent: each step sums clipped gradients of all records and adds Gaussian noise, so that the
    steps compose to one Gaussian mechanism exactly.

    Args:
        dataset: whose inputs are numbers; nothing is measured where they are words.
        size: N, the public size of a model's training set; at most 5,000 records are drawn and stand for N.
        seed: public; draws records and noise. What is measured here is never released.
        epsilon: ε > 0 of the claim, finite.
        delta: δ of the claim, in (0, 1).
    """
    inputs = linear_inputs(dataset, size, seed)
    if inputs is None:
        return {}
    schedule = TrainingSchedule(size=size, batch_size=size, epochs=PRIVATE_EPOCHS)
    noise = noise_multiplier(epsilon, delta, schedule.steps)
    rate = learning_rate(schedule, epsilon, CLIPPING_NORM, LINEAR_MOMENTUM)
    x, test = _with_constant(inputs.x), _with_constant(inputs.test)
    wanted = np.eye(len(dataset.classes), dtype=x.dtype)[inputs.y][:, None]
    rng = np.random.default_rng(seed)
    weights = np.zeros((x.shape[1], PRIVATE_FITS * len(dataset.classes)), dtype=x.dtype)  # side by side: one product
    velocity, norms = np.zeros_like(weights), np.linalg.norm(x, axis=1)[:, None]
    for _ in range(schedule.steps):
        slopes = _probabilities(x @ weights) - wanted
        lengths = np.linalg.norm(slopes, axis=2) * norms
        factors = size / len(x) * CLIPPING_NORM / np.maximum(lengths, CLIPPING_NORM)
        gradients = x.T @ (slopes * factors[..., None]).reshape(len(x), -1)
        noised = gradients + noise * CLIPPING_NORM * rng.standard_normal(weights.shape, dtype=x.dtype)
        velocity = LINEAR_MOMENTUM * velocity + noised / size
        weights -= rate * velocity
    return mean_utilities(dataset, _probabilities(test @ weights).swapaxes(0, 1), private_linear)


def noise_multiplier(epsilon: float, delta: float, steps: int) -> float:
    """σ of the Gaussian mechanism that is (ε, δ)-differentially private after so many steps on all records.

    Balle & Wang 2018, "Improving the Gaussian Mechanism for Differential Privacy", theorem 8, with T steps of noise σ
    as one of σ/√T.

    Args:
        epsilon: ε > 0, finite.
        delta: δ, in (0, 1).
        steps: T ≥ 1.
    """

    def excess(log_noise: float) -> float:
        noise = math.exp(log_noise)
        far = norm.logcdf(-1 / (2 * noise) - epsilon * noise)
        return float(norm.cdf(1 / (2 * noise) - epsilon * noise) - math.exp(min(epsilon + far, 0.0)) - delta)

    return math.exp(brentq(excess, math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE))) * math.sqrt(steps)


def _with_constant(x: Float[np.ndarray, "records features"]) -> Float32[np.ndarray, "records columns"]:
    return np.column_stack([x, np.ones(len(x))]).astype(np.float32)


def _probabilities(logits: Float32[np.ndarray, "records columns"]) -> Float32[np.ndarray, "records fits classes"]:
    return softmax(logits.reshape(len(logits), PRIVATE_FITS, -1), axis=2)
