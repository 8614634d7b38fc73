"""The discriminator of MemGuard: classifies a model's members by their sorted probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from palisade.data.secret import Secret

HIDDEN_WIDTHS = (64, 32)
LARGER_SIDE_EPOCHS = 250  # of the larger side; fewer leave adaptive attackers more to see
MAX_STEPS = 2000
RECORDS_PER_SIDE = 128  # records of each side in a step
LEARNING_RATE = 3e-3
RANDOMNESS_PURPOSE = "guard/discriminator"


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
    generator = secret.torch(RANDOMNESS_PURPOSE, model)
    weights = _initial(members.shape[-1], generator)
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
    member = torch.arange(2 * RECORDS_PER_SIDE) >= RECORDS_PER_SIDE
    for _ in range(min(MAX_STEPS, LARGER_SIDE_EPOCHS * max(map(len, sides)) // RECORDS_PER_SIDE)):
        drawn = [side[torch.randint(len(side), (RECORDS_PER_SIDE,), generator=generator)] for side in sides]
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
    for layer, (inputs, outputs) in enumerate(itertools.pairwise((classes, *HIDDEN_WIDTHS, 1))):
        drawn = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        weights[f"{layer}.weight"] = drawn.requires_grad_()
        weights[f"{layer}.bias"] = torch.zeros(outputs, requires_grad=True)
    return weights


def _layers(inputs: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The input of each layer, and the output of the last one."""
    values = [inputs]
    for layer in range(len(HIDDEN_WIDTHS) + 1):
        if layer:
            values[-1] = values[-1].relu()
        values.append(F.linear(values[-1], weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
    return values
