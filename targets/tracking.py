"""Follows training with Lightning's own loggers: loss and accuracy of each model after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Real
from pytorch_lightning.loggers import Logger
from torch.nn.functional import cross_entropy

from palisade.data.dataset import Dataset
from palisade.data.sequences import NO_TOKEN
from palisade.data.settings import instantiated

Predict = Callable[[Real[np.ndarray, "records ..."]], Float[np.ndarray, "models records classes"]]


class Follows(Protocol):
    """Source of a callback for a fit, which leaves training as it is without it."""

    def follow(
        self, models: Sequence[int], predict: Predict, members: Sequence[np.ndarray], dataset: Dataset
    ) -> pl.Callback:
        """A callback for these models; see `Tracker.follow`."""


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Makes the loggers of a run, one a model. Their numbers are internal: they are computed on members.

    Args:
        logger: the Hydra node of a Lightning logger; in its texts {folder} stands for the run's folder, {run} for its
            name and {model} for a model's number.
        folder: of the run.
    """

    logger: Mapping[str, Any]
    folder: Path

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> Tracker | None:
        """The tracker of a configuration, if it names a logger."""
        return cls(logger=config["logger"], folder=folder) if config.get("logger") else None

    def make(self, model: int) -> Logger:
        """The logger of a model.

        Raises:
            ValueError: if what it needs is not installed.
        """
        named = {"{folder}": str(self.folder), "{run}": self.folder.name, "{model}": str(model)}
        node = dict(self.logger)
        for key, value in node.items():
            for placeholder, text in named.items() if isinstance(value, str) else ():
                node[key] = node[key].replace(placeholder, text)
        try:
            return instantiated("logger", node, Logger)
        except ValueError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            raise ValueError(
                f"logger._target_={node['_target_']}: expected a package that is installed; pip install -e '.[track]'"
            ) from error

    def follow(
        self, models: Sequence[int], predict: Predict, members: Sequence[np.ndarray], dataset: Dataset
    ) -> pl.Callback:
        """A callback that logs loss and accuracy of these models; training goes on as without it.

        Args:
            models: that are trained together.
            predict: their logits now, in evaluation mode.
            members: the records that each is trained on.
            dataset: inputs, labels and validation records, if there are any.
        """
        return Follower([self.make(model) for model in models], predict, members, dataset)


class Follower(pl.Callback):
    """Logs each model's loss and accuracy after every epoch, on its own members and on validation records."""

    def __init__(
        self, loggers: Sequence[Logger], predict: Predict, members: Sequence[np.ndarray], dataset: Dataset
    ) -> None:
        self.loggers, self.predict, self.members, self.dataset = loggers, predict, members, dataset

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: logs each model's numbers on members and on validation records."""
        validation = self.dataset.split.validation
        roles = {"train": self.members} | ({"validation": [validation] * len(self.members)} if len(validation) else {})
        for role, records in roles.items():
            asked = np.unique(np.concatenate(records))
            for logger, own, logits in zip(self.loggers, records, self.predict(self.dataset.x[asked]), strict=True):
                numbers = self._numbers(role, logits[np.searchsorted(asked, own)], own)
                logger.log_metrics(numbers, step=trainer.current_epoch + 1)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after training: closes the loggers with success."""
        for logger in self.loggers:
            logger.finalize("success")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook after an error: closes the loggers as failed."""
        for logger in self.loggers:
            logger.finalize("failed")

    def _numbers(self, role: str, logits: np.ndarray, records: np.ndarray) -> dict[str, float]:
        labels = self.dataset.y[records]
        answers, classes = torch.from_numpy(logits).flatten(end_dim=-2), torch.from_numpy(labels.astype(np.int64))
        loss = cross_entropy(answers, classes.flatten(), ignore_index=NO_TOKEN)
        right = (logits.argmax(axis=-1) == labels)[labels != NO_TOKEN]
        return {f"{role}_loss": float(loss), f"{role}_accuracy": float(right.mean())}
