"""Group norm in place of batch norm, which mixes records."""

from __future__ import annotations

from torch import nn

from palisade.targets.networks import group_norm


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
