"""Networks with a leading model axis: K models of one architecture, trained at the same time."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

STATELESS = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Identity)


class StackedLinear(nn.Module):
    """K linear layers side by side, one batched product for all of them.

    The weight is kept transposed, (models, inputs, outputs): batched products and their gradients then need no copies.
    Other shapes: bias (models, outputs); input (models, batch, inputs).
    """

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        states = [layer.state_dict() for layer in layers]
        self.weight = nn.Parameter(torch.stack([state["weight"].mT for state in states]))
        biased = "bias" in states[0]
        self.bias = nn.Parameter(torch.stack([state["bias"] for state in states])) if biased else None

    def forward(self, x: Float[Tensor, "models batch inputs"]) -> Float[Tensor, "models batch outputs"]:
        if self.bias is None:
            return x @ self.weight
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


def unstackable(network: nn.Module) -> str | None:
    """The first layer that has no stacked form, or None if the whole network has one."""
    for name, layer in network.named_modules():
        leaf = not list(layer.children())
        if leaf and not isinstance(layer, (nn.Linear, *STATELESS)):
            return f"{name} ({type(layer).__name__})"
    return None


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """One network with a leading model axis in inputs, outputs and parameters; state names stay.

    Raises:
        ValueError: if a layer has no stacked form; train such a network with `fleet.at_once=1`.
    """
    if (layer := unstackable(networks[0])) is not None:
        raise ValueError(f"fleet.at_once={len(networks)}: layer {layer} has no stacked form; use fleet.at_once=1")
    stacked = copy.deepcopy(networks[0])
    for name, layer in networks[0].named_modules():
        if isinstance(layer, nn.Linear):
            stacked.set_submodule(name, StackedLinear([network.get_submodule(name) for network in networks]))
    return stacked


def transposed(network: nn.Module) -> set[Tensor]:
    """The parameters whose last two axes stand the other way round than in a single model."""
    return {layer.weight for layer in network.modules() if isinstance(layer, StackedLinear)}


def unstack(stacked: nn.Module) -> list[dict[str, Tensor]]:
    """The `state_dict`s of the single models in a stack."""
    turned = transposed(stacked)
    state = {name: (p.mT if p in turned else p).detach() for name, p in stacked.named_parameters()}
    models = len(next(iter(state.values())))
    return [
        {name: value[k].clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        for k in range(models)
    ]
