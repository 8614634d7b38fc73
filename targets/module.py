"""The one LightningModule that every target of this project is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor, nn, optim

from palisade.data.loaders import Batch

Loss = Callable[[Tensor, Batch, int], Tensor]
Inputs = Callable[[Batch, int], Batch]


class Target(pl.LightningModule):
    """A classifier, or a stack of them, trained on the sum of its records' losses.

    Args:
        network: the classifier; with a leading model axis for a stack.
        inputs: (batch, step) to the batch that is trained on.
        loss: (logits, batch, epoch) to losses per record, shape (…, batch).
        optimizer: makes the optimizer from the parameters.
        loss_divisor: what a step's summed loss is divided by: the expected batch size q·N, a public number. The
            realised size of a batch is private.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        inputs: Inputs,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], optim.Optimizer],
        loss_divisor: float,
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.loss = network, inputs, loss
        self.optimizer, self.loss_divisor = optimizer, loss_divisor

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Lightning's hook before a step: the defense's changed inputs in place of the records."""
        return self.inputs(batch, self.trainer.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Lightning's hook for a step: the sum of the real rows' losses, over the loss's divisor."""
        losses = self.loss(self.network(batch.x), batch, self.current_epoch)
        return losses.where(batch.mask, 0).sum() / self.loss_divisor

    def configure_optimizers(self) -> optim.Optimizer:
        """Lightning's hook before the first step: the recipe's optimizer for all parameters."""
        return self.optimizer(self.network.parameters())
