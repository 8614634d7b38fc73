"""Early stopping: the weights from before the network memorizes single records."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from palisade.data.loaders import Batch
from palisade.data.placement import sent
from palisade.data.split import Split
from palisade.fields import Count
from palisade.targets.fleet import Defense, Fitter, records_at_once
from palisade.targets.record_loss import record_losses


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Defense):
    """Ends training when the validation loss no longer falls, or after some epochs; the recipe is otherwise the same.

    Members are fitted closer with every epoch, so fewer leak less, and leakage is a curve over epochs (Song & Mittal
    2021, section 4.3.2). Nothing is guaranteed, and the validation records that choose the epoch leave a trace.

    Args:
        patience: epochs in a row without a new lowest validation loss, after which a model is done; its best weights
            are kept.
        epochs: instead of patience, exactly so many; needs no validation records.

    Raises:
        ValueError: if a value is no count, none is given, or the trainer has fewer epochs.
    """

    patience: Count | None = None
    epochs: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is None and self.epochs is None:
            raise ValueError("patience=null: expected a count where epochs=null, or it never stops; set one of them")

    @property
    def roles(self) -> frozenset[str]:
        """The validation records, unless the number of epochs is fixed."""
        return frozenset({"validation"} if self.epochs is None else ())

    @property
    def strength(self) -> float | None:
        """The fixed number of epochs, or else the patience in epochs."""
        return self.patience if self.epochs is None else self.epochs

    def callbacks(self, fitter: Fitter, split: Split) -> list[pl.Callback]:
        """The rule that ends training.

        Raises:
            ValueError: if the fixed number exceeds the epochs of the recipe.
        """
        if self.epochs is None:
            assert self.patience is not None
            return [BestWeights(self.patience, fitter, split)]
        if self.epochs > (planned := fitter.recipe.epochs):
            raise ValueError(f"defense.epochs={self.epochs}: expected at most trainer.epochs={planned}; choose fewer")
        return [LastEpoch(self.epochs)]


class LastEpoch(pl.Callback):
    """Ends training after some epochs, without a change to those before.

    Args:
        epochs: how many.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: ends training after the last one."""
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


class BestWeights(pl.Callback):
    """Leaves every model, of a stack too, with the weights of its own lowest validation loss.

    A model that is done has these weights at the end of every further epoch, though the stack trains on: so it is the
    same as alone, in its checkpoints too.

    Args:
        patience: epochs in a row without a new lowest loss, after which a model is done.
        fitter: of the models that are trained together.
        split: its validation records are looked at.
    """

    def __init__(self, patience: int, fitter: Fitter, split: Split) -> None:
        self.patience, self.stacked, self.classes = patience, len(fitter.models) > 1, len(fitter.dataset.classes)
        self.x = sent(fitter.dataset.x[split.validation], fitter.device)
        self.y = sent(fitter.dataset.y[split.validation], fitter.device)
        self.lowest = torch.full([len(fitter.models)], torch.inf)
        self.waited = torch.zeros(len(fitter.models), dtype=torch.int64)
        self.best: list[Tensor] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: keeps each model's best weights, and ends once all lost patience."""
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        self.best = self.best or [weights.clone() for weights in self._weights(network)]
        losses = self._losses(network)
        better = (losses < self.lowest) & (self.waited < self.patience)
        for best, weights in zip(self.best, self._weights(network), strict=True):
            best[better] = weights[better]
        self.lowest = losses.where(better, self.lowest)
        self.waited = torch.where(better, 0, self.waited + 1)
        done = self.waited >= self.patience
        self._put_back(network, done)
        trainer.should_stop = bool(done.all())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after training: puts every model's best weights back, and lets go of the device's memory."""
        self._put_back(pl_module.network, torch.ones_like(self.waited, dtype=torch.bool))  # type: ignore[arg-type]
        self.best = []
        del self.x, self.y

    def _put_back(self, network: nn.Module, models: Bool[Tensor, " models"]) -> None:
        for best, weights in zip(self.best, self._weights(network), strict=True):
            weights[models] = best[models]

    def _weights(self, network: nn.Module) -> list[Float[Tensor, "models ..."]]:
        """Views of all parameters and buffers with a leading model axis; what is written there is in the network."""
        tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
        return tensors if self.stacked else [tensor.unsqueeze(0) for tensor in tensors]

    def _losses(self, network: nn.Module) -> Float[Tensor, " models"]:
        """The mean cross-entropy of every model on the validation records, in evaluation mode."""
        network.eval()
        models, total = len(self.lowest), torch.zeros(len(self.lowest), device=self.x.device)
        with torch.no_grad():
            at_once = records_at_once(self.x.shape, self.y.ndim > 1, self.classes)
            for x, y in zip(*(torch.split(part, at_once) for part in (self.x, self.y)), strict=True):
                logits = network(x.expand(models, *x.shape)) if self.stacked else network(x).unsqueeze(0)
                y, every = y.expand(models, *y.shape), torch.ones(models, len(y), dtype=torch.bool, device=y.device)
                total += record_losses(logits, Batch(x, y, every, every)).sum(dim=1)
        network.train()
        return (total / len(self.y)).cpu()
