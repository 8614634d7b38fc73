"""Layers that mix the records of a batch, or keep statistics of them, while they are in training mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from palisade.defenses.dp_sgd.gradients import Refused

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
