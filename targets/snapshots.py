"""Copies of the weights while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytorch_lightning as pl
from torch import Tensor

Weights = list[dict[str, Tensor]]


class Snapshots(pl.Callback):
    """Copies the weights after some epochs; training itself goes on as without it.

    Each is a release of its own to whoever sees it. Under DP-SGD that costs nothing: ε is accounted for all steps as
    if each of them were published.

    Args:
        epochs: after which epochs, from 1 on.
        weights: gives copies of the weights of all models that are trained together.
    """

    def __init__(self, epochs: Sequence[int], weights: Callable[[], Weights]) -> None:
        self.epochs, self.weights = epochs, weights
        self.taken: dict[int, Weights] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: a copy of the weights, if this is one of the epochs."""
        if (epoch := trainer.current_epoch + 1) in self.epochs:
            self.taken[epoch] = self.weights()

    def of_models(self, final: Weights) -> list[dict[int, dict[str, Tensor]]]:
        """For each model its weights by epoch; after an early end they are the final ones."""
        return [{epoch: self.taken.get(epoch, final)[k] for epoch in self.epochs} for k in range(len(final))]
