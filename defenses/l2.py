"""L2 regularization: small weights fit single records less closely."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import optim

from datamodules.secret import Secret
from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class L2(Defense):
    """Adds λ/2·‖θ‖² to the loss, whatever the optimizer.

    It narrows the gap between members and others that overfitting opens (Shokri et al. 2017, section 9), and
    guarantees nothing.

    Args:
        weight_decay: λ > 0.

    Raises:
        ValueError: if λ is not positive.
    """

    weight_decay: float

    def __post_init__(self) -> None:
        if not self.weight_decay > 0:
            raise ValueError(f"defense.weight_decay={self.weight_decay} must be above 0; use defense=none for 0")

    @property
    def strength(self) -> float:
        return self.weight_decay

    def callbacks(self, secret: Secret) -> list[pl.Callback]:
        return [WeightDecay(self.weight_decay)]


class WeightDecay(pl.Callback):
    """Adds the gradient of λ/2·‖θ‖² to what the loss gave."""

    def __init__(self, weight_decay: float):
        self.weight_decay = weight_decay

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        torch._foreach_add_(gradients, parameters, alpha=self.weight_decay)
