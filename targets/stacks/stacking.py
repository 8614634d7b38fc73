"""From K networks to one with a leading model axis, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palisade.targets.stacks.convolution import StackedConvolution, StackedStandardizedConvolution
from palisade.targets.stacks.dense import StackedLinear
from palisade.targets.stacks.embedding import StackedEmbedding, plain
from palisade.targets.stacks.folded import Folded
from palisade.targets.stacks.normalization import StackedNorm
from palisade.targets.standardization import StandardizedConv2d

Form = Callable[[Sequence[Any]], nn.Module]
STACKED_FORMS: Mapping[type[nn.Module], Form] = {
    nn.Linear: StackedLinear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), StackedConvolution),
    StandardizedConv2d: StackedStandardizedConvolution,
    nn.Embedding: StackedEmbedding,
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm), StackedNorm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), StackedNorm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), Folded),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), Folded),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), Folded),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), Folded),
}
"""Single layers and their forms with a leading model axis."""
ELEMENTWISE_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)
"""Layers that take a leading model axis as they are; containers when they are empty."""


def unstackable(network: nn.Module) -> str | None:
    """The first layer that has no stacked form, or None if the whole network has one."""
    owned: set[nn.Parameter] = set()
    for name, layer in network.named_modules():
        parameters = set(layer.parameters(recurse=False))
        if not _has_form(layer) or parameters & owned:  # a stack would untie what layers share
            return f"{name or 'itself'} ({type(layer).__name__})"
        owned |= parameters
    return None


def _has_form(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Embedding) and not plain(layer):
        return False
    own = {name for name, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))}
    if type(layer) in STACKED_FORMS:
        return own <= ({"weight", "bias", "gain"} if type(layer) is StandardizedConv2d else {"weight", "bias"})
    return not own and (type(layer) in ELEMENTWISE_LAYERS or len(list(layer.children())) > 0)


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """One network with a leading model axis in inputs, outputs and parameters; state names stay.

    Modules with a forward of their own must leave the leading axes alone, whatever their number.

    Raises:
        ValueError: if a layer has no stacked form; train such a network with `fleet.at_once=1`.
    """
    if (layer := unstackable(networks[0])) is not None:
        raise ValueError(f"fleet.at_once={len(networks)}: expected 1, since layer {layer} has no stacked form; set it")
    stacked = copy.deepcopy(networks[0])
    forms: dict[nn.Module, nn.Module] = {}
    for name, single in networks[0].named_modules(remove_duplicate=False):  # a layer may stand in two places
        if (form := STACKED_FORMS.get(type(single))) is not None:
            if single not in forms:
                forms[single] = form([network.get_submodule(name) for network in networks]).train(single.training)
            stacked.set_submodule(name, forms[single])
    return stacked


def transposed(network: nn.Module) -> set[Tensor]:
    """The parameters whose last two axes stand the other way round than in a single model."""
    return {layer.weight for layer in network.modules() if isinstance(layer, StackedLinear)}


def unstack(stacked: nn.Module) -> list[dict[str, Tensor]]:
    """The `state_dict`s of the single models in a stack."""
    turned = transposed(stacked)
    named = stacked.named_parameters(remove_duplicate=False)
    state = {name: (p.mT if p in turned else p).detach() for name, p in named}
    models = len(next(iter(state.values())))
    return [
        {name: value[k].clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        for k in range(models)
    ]
