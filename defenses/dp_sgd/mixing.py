"""Layers that mix the records of a batch: refused, or replaced by group norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from palisade.defenses.dp_sgd.gradients import Refused
from palisade.targets.networks import group_norm

BY_FIX = ", as DPSGD(fix=True) does"


def refuse_mixing_layers(network: nn.Module) -> Callable[[], object]:
    """Has every batch norm, and instance norm with running statistics, refuse to run in training mode.

    In evaluation mode, as in a frozen backbone, they treat every record by itself. Which mode they are in is known only
    when they run.

    Returns:
        What ends that.
    """
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            how = f"mixes the records of a batch; replace it with nn.GroupNorm{BY_FIX}"
        elif isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            how = "keeps statistics of the records; set track_running_stats=False"
        else:
            continue
        message = f"layer {name} ({type(layer).__name__}) {how}, or, if it is frozen, call its eval() in training_step"

        def refuse(layer: nn.Module, inputs: Any, message: str = message) -> None:
            if layer.training:
                raise Refused(message)

        handles.append(layer.register_forward_pre_hook(refuse))
    return lambda: [handle.remove() for handle in handles]


def replace_batch_norms(network: nn.Module) -> list[str]:
    """Replaces every batch norm below `network` by a group norm with its weights, frozen where they are.

    A batch norm whose parameters are all frozen is left alone: it belongs to a pretrained part, whose features rest on
    its statistics, and in eval mode it mixes nothing.

    Groups hold eight channels or more where there are as many: normalizing a channel by itself would erase what dense
    layers say, and most of what small images do.

    Returns:
        Names of the replaced layers.
    """
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not _frozen(layer)
    }
    for name, old in layers.items():
        new = group_norm(old.num_features, affine=old.affine)
        if old.affine:
            new.to(old.weight).load_state_dict({"weight": old.weight, "bias": old.bias})
            new.weight.requires_grad_(old.weight.requires_grad)
            new.bias.requires_grad_(old.bias.requires_grad)
        network.set_submodule(name, new.train(old.training))
    return list(layers)


def _frozen(layer: nn.Module) -> bool:
    parameters = list(layer.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
