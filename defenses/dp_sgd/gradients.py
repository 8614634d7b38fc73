"""The sum of a step's clipped per-record gradients, whichever way they are computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palisade.defenses.dp_sgd.clipping import Flat


class Refused(ValueError):
    """Raised inside the user's code by this package: not to be taken for an error of theirs."""


GRADIENT_METHODS = ("auto", "fast", "functional", "alone")
"""Values of `per_record`; see `choice.py`."""


class ClippedSum:
    """Adds up clipped gradients of a step's records until they are taken.

    One record moves the sum by at most C, which is what the noise is measured against. A parameter that the network
    holds under several names is one: it gets one noise, and a copy of what was released says nothing more.

    Args:
        network: whose trainable parameters are meant.
        clipping: what scales the gradients down; None sums them as they are.

    Raises:
        ValueError: if nothing is trainable.
    """

    def __init__(self, network: nn.Module, clipping: Flat | None) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(f"{type(network).__name__} has no trainable parameter; unfreeze a layer")
        self.clipping = clipping
        self._sums: dict[nn.Parameter, Tensor] = {}

    def attach(self) -> None:
        """Prepares the network for a fit."""

    def detach(self) -> None:
        """Leaves the network as it was."""
        self._sums = {}

    def factors(
        self, squares: Float[Tensor, "layers *models batch"]
    ) -> tuple[Float[Tensor, "*models batch"], Float[Tensor, "*#layers *models batch"]]:
        """Norms of whole gradients, and what every gradient is multiplied by, from the layers' squared norms."""
        norms = squares.sum(0).sqrt()
        return norms, torch.ones_like(norms) if self.clipping is None else self.clipping.factors(norms, squares)

    def add(self, part: Mapping[nn.Parameter, Tensor]) -> None:
        """Adds gradients that are clipped already."""
        for parameter, value in part.items():
            self._sums[parameter] = self._sums[parameter] + value if parameter in self._sums else value

    def take(self) -> list[Tensor]:
        """The sum for every parameter, zeros where there was nothing to add; a new one begins."""
        sums, self._sums = self._sums, {}
        return [sums[p] if p in sums else torch.zeros_like(p) for p in self.parameters]
