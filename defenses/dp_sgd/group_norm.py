"""Group norm in place of batch norm, which mixes records."""

from __future__ import annotations

from torch import nn

from targets.networks import group_norm


def replace_batch_norms(network: nn.Module) -> list[str]:
    """Replaces every batch norm below `network` by a group norm with its weights; returns their names.

    Groups hold eight channels or more where there are as many: normalizing a channel by itself would erase what dense
    layers say, and most of what small images do.
    """
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for name in names:
        old = network.get_submodule(name)
        assert isinstance(old, nn.modules.batchnorm._BatchNorm)
        new = group_norm(old.num_features, affine=old.affine)
        if old.affine:
            new.to(old.weight).load_state_dict({"weight": old.weight, "bias": old.bias})
        network.set_submodule(name, new.train(old.training))
    return names
