"""Parameters of a stack, from those of single layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def side_by_side(layers: Sequence[nn.Module], name: str) -> nn.Parameter | None:
    """The layers' parameters of one name on a leading model axis, or None if they have none; frozen ones stay so."""
    parameters: list[nn.Parameter | None] = [getattr(layer, name, None) for layer in layers]
    present = [parameter for parameter in parameters if parameter is not None]
    if not present:
        return None
    return nn.Parameter(
        torch.stack([parameter.detach() for parameter in present]), requires_grad=present[0].requires_grad
    )
