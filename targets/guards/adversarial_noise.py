"""MemGuard's first phase: noise on logits that changes the discriminator's mind and keeps the predicted class."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from palisade.targets.guards.discriminator import log_odds, slope

MAX_SEARCH_STEPS = 100
LOGIT_STEP = 0.1  # of logits, whatever the length of the gradient
LABEL_WEIGHT = 10.0  # c₂
DISTORTION_WEIGHTS = tuple(10.0**power for power in range(-1, 6))  # c₃, until the search fails
SCALING_RATIO, SCALING_STEPS = 1.25, 15  # of factors that logits are scaled by, up to 28 and down to 1/28
INTERVAL_HALVINGS = 8
UNDECIDED_MARGIN = 1e-5  # |h − ½| that is as good as a guess
LOGIT_GRID = 2.0**-24
"""Logits stay on a grid, so that the rounding of products, which depends on the batch, never adds up."""
QUERIES_AT_ONCE = 1024  # queries; more fill the cache

Weights = Mapping[str, Tensor]


def with_noise(
    logits: Float32[np.ndarray, "records classes"], weights: Weights
) -> tuple[Float64[np.ndarray, "records classes"], Bool[np.ndarray, " records"]]:
    """Logits with noise, and for which of them h is nearer to ½ than it was.

    Of the noise that was found for a query it is that with the largest weight on distortion (Jia et al. 2019,
    algorithm 1). Where steps down the loss end in a local minimum before h changes its mind, as for most members of a
    model that is not overconfident, it is the least scaling of the logits that changes it.

    Args:
        logits: of the queries.
        weights: of the discriminator h, in double precision.
    """
    parts = [
        _one_batch(part, weights) for part in torch.split(torch.tensor(logits, dtype=torch.float64), QUERIES_AT_ONCE)
    ]
    noisy, nearer = (torch.cat(pieces).numpy() for pieces in zip(*parts, strict=True))
    return noisy, nearer


def _one_batch(
    logits: Float64[Tensor, "records classes"], weights: Weights
) -> tuple[Float64[Tensor, "records classes"], Bool[Tensor, " records"]]:
    start = _on_grid(logits)
    result, before = start.clone(), log_odds(start.softmax(dim=-1), weights)
    searched = wanted = torch.nonzero((before.sigmoid() - 0.5).abs() > UNDECIDED_MARGIN).flatten()
    for distortion_weight in DISTORTION_WEIGHTS:
        noisy, changed = _search(start[searched], before[searched] > 0, weights, distortion_weight)
        searched = searched[changed]
        result[searched] = noisy[changed]
    stuck = wanted[(result[wanted] == start[wanted]).all(dim=-1)]
    result[stuck] = _scaled(start[stuck], before[stuck] > 0, weights)
    return result, log_odds(result.softmax(dim=-1), weights).abs() < before.abs()


def _search(
    start: Float64[Tensor, "records classes"], member: Bool[Tensor, " records"], weights: Weights, c3: float
) -> tuple[Float64[Tensor, "records classes"], Bool[Tensor, " records"]]:
    """Steps down the loss until h changes its mind and the predicted class is the same; which queries it did so for."""
    result, changed = start.clone(), torch.zeros_like(member)
    left, z, label, origin = torch.arange(len(start)), start, start.argmax(dim=-1, keepdim=True), start.softmax(dim=-1)
    for _ in range(MAX_SEARCH_STEPS):
        if not len(left):
            break
        odds, gradient = _slope(z, label, origin, weights, c3)
        moved = _on_grid(z - LOGIT_STEP * gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-30))
        done = ((odds > 0) != member[left]) & (z.argmax(dim=-1) == label.squeeze(-1))
        if done.any():
            result[left[done]], changed[left[done]] = z[done], True
            left, moved, label, origin = (part[~done] for part in (left, moved, label, origin))
        z = moved
    return result, changed


def _scaled(
    start: Float64[Tensor, "records classes"], member: Bool[Tensor, " records"], weights: Weights
) -> Float64[Tensor, "records classes"]:
    """The logits times the factor nearest to 1 that changes h's mind; unchanged where none does."""

    def changed(factor: Float64[Tensor, "records 1"]) -> Bool[Tensor, "records 1"]:
        return ((log_odds((factor * start).softmax(dim=-1), weights) > 0) != member)[:, None]

    inner = outer = torch.ones_like(start[:, :1])  # factors on both sides of the change
    for step, direction in itertools.product(range(1, SCALING_STEPS + 1), (-1, 1)):
        factor = torch.full_like(outer, SCALING_RATIO ** (direction * step))
        first = changed(factor) & (outer == 1)
        inner, outer = torch.where(first, factor / SCALING_RATIO**direction, inner), torch.where(first, factor, outer)
    for _ in range(INTERVAL_HALVINGS):
        middle = (inner * outer).sqrt()
        beyond = changed(middle)
        inner, outer = torch.where(beyond, inner, middle), torch.where(beyond, middle, outer)
    return _on_grid(outer * start)


def _slope(
    z: Float64[Tensor, "records classes"],
    label: Int64[Tensor, " records 1"],
    origin: Float64[Tensor, "records classes"],
    weights: Weights,
    c3: float,
) -> tuple[Float64[Tensor, " records"], Float64[Tensor, "records classes"]]:
    """logit h at z, and the gradient of |logit h| + c₂·relu(max_{j≠ŷ} z_j − z_ŷ) + c₃·‖softmax(z) − origin‖₁."""
    p = z.softmax(dim=-1)
    odds, of_odds = slope(p, weights)
    of_p = odds.sign()[:, None] * of_odds + c3 * (p - origin).sign()
    of_z = p * (of_p - (p * of_p).sum(dim=-1, keepdim=True))
    other, rival = z.scatter(-1, label, -torch.inf).max(dim=-1, keepdim=True)
    overtaken = LABEL_WEIGHT * (other > z.gather(-1, label)).to(z)
    return odds, of_z.scatter_add_(-1, rival, overtaken).scatter_add_(-1, label, -overtaken)


def _on_grid(z: Float64[Tensor, "records classes"]) -> Float64[Tensor, "records classes"]:
    return (z / LOGIT_GRID).round() * LOGIT_GRID
