"""Losses that defenses share: soft labels, and penalties on the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, optim

from palisade.data.loaders import Batch

Slope = Callable[[list[Tensor]], Sequence[Tensor]]


def soft_labels(batch: Batch, classes: int = -1) -> Float[Tensor, "*models batch *positions classes"]:
    """The probabilities that a step is to learn: its soft labels, or all on the class of each record or token.

    Behind a document's last token they mean nothing, and count in no loss.

    Args:
        batch: of a step.
        classes: how many there are; −1: as many as the step's largest label asks for.
    """
    return F.one_hot(batch.y.clamp(min=0), classes).float() if batch.targets is None else batch.targets


class Penalty(pl.Callback):
    """Adds λ times the gradient of a penalty on the weights to what the loss gave.

    Unlike an optimizer's own weight decay it is the same penalty under every optimizer.

    Args:
        weight: λ.
        slope: the weights to the penalty's gradient with respect to each.
    """

    def __init__(self, weight: float, slope: Slope) -> None:
        self.weight, self.slope = weight, slope

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: optim.Optimizer
    ) -> None:
        """Lightning's hook before the optimizer: adds λ·slope(θ) to the gradients that the loss gave."""
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            torch._foreach_add_([p.grad for p in weights], list(self.slope(weights)), alpha=float(self.weight))
