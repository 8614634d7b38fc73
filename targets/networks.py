"""The networks that targets are made of. `shape` is that of one record, `classes` the number of logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"network.activation={name} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class MLP(nn.Sequential):
    """Dense layers with an activation between them; no hidden layer makes it a linear model."""

    def __init__(self, *, shape: Sequence[int], classes: int, hidden: Sequence[int] = (), activation: str = "relu"):
        if any(width < 1 for width in hidden):
            raise ValueError(f"network.hidden={list(hidden)} has an empty layer; every width must be at least 1")
        widths = [math.prod(shape), *hidden, classes]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), globals()["activation"](activation)]
        super().__init__(*layers[:-1])
        self.record_dimensions = len(shape)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... classes"]:
        return super().forward(x.flatten(start_dim=x.ndim - self.record_dimensions))
