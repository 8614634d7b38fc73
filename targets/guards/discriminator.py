"""The discriminator of MemGuard: tells a model's members from other records by the sorted probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from datamodules.secret import Secret

HIDDEN = (64, 32)
STEPS = 400
LEARNING_RATE = 5e-3
PURPOSE = "guard/discriminator"


def fit(
    members: Float32[Tensor, "members classes"], others: Float32[Tensor, "others classes"], secret: Secret, model: int
) -> dict[str, Tensor]:
    """Weights of a small network whose output is the log-odds of membership, members and others counting alike.

    Args:
        members: the model's logits for the records that it was trained on.
        others: those for reference records.
        secret: fixes the initial weights.
        model: the model's number.
    """
    inputs = torch.cat([_sorted(members), _sorted(others)])
    member = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
    share = torch.where(member == 1, 0.5 / len(members), 0.5 / len(others))
    weights = _initial(inputs.shape[-1], secret.torch(PURPOSE, model))
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (share * F.binary_cross_entropy_with_logits(_forward(inputs, weights), member, reduction="none")).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def log_odds(
    probabilities: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]
) -> Float[Tensor, " records"]:
    """logit h: above 0 where h takes an answer for one about a member."""
    return _forward(probabilities.sort(dim=-1).values, weights)


def _sorted(logits: Float32[Tensor, "records classes"]) -> Float32[Tensor, "records classes"]:
    return logits.softmax(dim=-1).sort(dim=-1).values


def _initial(classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    weights = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise((classes, *HIDDEN, 1))):
        drawn = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        weights[f"{layer}.weight"] = drawn.requires_grad_()
        weights[f"{layer}.bias"] = torch.zeros(outputs, requires_grad=True)
    return weights


def _forward(inputs: Float[Tensor, "records classes"], weights: Mapping[str, Tensor]) -> Float[Tensor, " records"]:
    values = inputs
    for layer in range(len(HIDDEN) + 1):
        values = F.linear(values.relu() if layer else values, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
    return values.squeeze(-1)
