"""The discriminator of MemGuard: tells a model's members from other records by their sorted probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from palisade.data.secret import Secret

HIDDEN = (64, 32)
EPOCHS = 250  # of the larger side; fewer leave adaptive attackers more to see
MOST_STEPS = 2000
HALF = 128  # records of each side in a step
LEARNING_RATE = 3e-3
PURPOSE = "guard/discriminator"


def fit(
    members: Float32[np.ndarray, "members classes"],
    others: Float32[np.ndarray, "others classes"],
    secret: Secret,
    model: int,
) -> dict[str, Tensor]:
    """Weights of a small network whose output is the log-odds of membership, members and others counting alike.

    Args:
        members: the model's logits for the records that it was trained on.
        others: those for reference records.
        secret: fixes initial weights and batches.
        model: the model's number.
    """
    sides = [torch.from_numpy(side).softmax(dim=-1).sort(dim=-1).values for side in (others, members)]
    generator = secret.torch(PURPOSE, model)
    weights = _initial(members.shape[-1], generator)
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
    member = torch.arange(2 * HALF) >= HALF
    for _ in range(min(MOST_STEPS, EPOCHS * max(map(len, sides)) // HALF)):
        drawn = [side[torch.randint(len(side), (HALF,), generator=generator)] for side in sides]
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(_layers(torch.cat(drawn), weights)[-1].squeeze(-1), member.float())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def log_odds(
    probabilities: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]
) -> Float[Tensor, " records"]:
    """logit h: above 0 where h takes an answer for one about a member."""
    return _layers(probabilities.sort(dim=-1).values, weights)[-1].squeeze(-1)


def slope(
    probabilities: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " records"], Float[Tensor, "records classes"]]:
    """logit h and its gradient; by hand, since autograd takes several times as long over so little."""
    ascending, order = probabilities.sort(dim=-1)
    *hidden, odds = _layers(ascending, weights)
    gradient = torch.ones_like(odds)
    for layer, value in reversed(list(enumerate(hidden))):
        gradient = gradient @ weights[f"{layer}.weight"]
        if layer:
            gradient *= value > 0
    return odds.squeeze(-1), torch.empty_like(gradient).scatter_(-1, order, gradient)


def _initial(classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """He's initial weights, and no biases."""
    weights = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise((classes, *HIDDEN, 1))):
        drawn = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        weights[f"{layer}.weight"] = drawn.requires_grad_()
        weights[f"{layer}.bias"] = torch.zeros(outputs, requires_grad=True)
    return weights


def _layers(inputs: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The input of each layer, and the output of the last one."""
    values = [inputs]
    for layer in range(len(HIDDEN) + 1):
        if layer:
            values[-1] = values[-1].relu()
        values.append(F.linear(values[-1], weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
    return values
