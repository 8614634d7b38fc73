"""MemGuard's first phase: noise on logits after which the discriminator can only guess."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

STEPS = 300
STEP = 0.1  # of logits, whatever the length of the gradient
LABEL_WEIGHT = 10.0  # c₂
DISTORTION_WEIGHTS = tuple(10.0**power for power in range(-1, 6))  # c₃, until one fails
UNDECIDED = 1e-5  # |h − ½| that is as good as a guess
GRID = 2.0**-24
"""Logits are kept on a grid, so that rounding in products, which depends on the batch, never adds up."""

LogOdds = Callable[[Float64[Tensor, "records classes"]], Float64[Tensor, " records"]]


def with_noise(logits: Float64[Tensor, "records classes"], log_odds: LogOdds) -> Float64[Tensor, "records classes"]:
    """z + e for every query, or z where no noise was found (Jia et al. 2019, algorithm 1).

    Of the e that change the discriminator's mind and keep the predicted class, it is the one found with the largest
    weight on distortion.

    Args:
        logits: z of the queries.
        log_odds: the discriminator, of probabilities.
    """
    found = (logits / GRID).round() * GRID
    before = log_odds(logits.softmax(dim=-1))
    searched = torch.nonzero((before.sigmoid() - 0.5).abs() > UNDECIDED).flatten()
    start = found.clone()
    for weight in DISTORTION_WEIGHTS:
        noisy, changed = _search(start[searched], before[searched] > 0, log_odds, weight)
        searched = searched[changed]
        found[searched] = noisy[changed]
    return found
    

def _search(
    start: Float64[Tensor, "records classes"], member: Bool[Tensor, " records"], log_odds: LogOdds, weight: float
) -> tuple[Float64[Tensor, "records classes"], Bool[Tensor, " records"]]:
    """Steps down the loss until the discriminator changes its mind; which queries it did so for."""
    label, origin = start.argmax(dim=-1), start.softmax(dim=-1)
    at, changed = start.clone(), torch.zeros_like(member)
    left = torch.arange(len(start))
    for _ in range(STEPS - 1):
        if not len(left):
            break
        z = at[left].requires_grad_()
        gradient, = torch.autograd.grad(_loss(z, label[left], origin[left], log_odds, weight).sum(), z)
        length = gradient.norm(dim=-1, keepdim=True)
        step = STEP * gradient / length.clamp(min=1e-30)
        at[left] = ((z.detach() - step) / GRID).round() * GRID
        done = (log_odds(at[left].softmax(dim=-1)) > 0) != member[left]
        done &= at[left].argmax(dim=-1) == label[left]
        changed[left[done]] = True
        left = left[~done]
    return at, changed


def _loss(z, label, origin, log_odds, weight):
    p = z.softmax(dim=-1)
    own = z.gather(-1, label[:, None]).squeeze(-1)
    other = z.scatter(-1, label[:, None], -torch.inf).amax(dim=-1)
    return log_odds(p).abs() + LABEL_WEIGHT * (other - own).relu() + weight * (p - origin).abs().sum(dim=-1)
