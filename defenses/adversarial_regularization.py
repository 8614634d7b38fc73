"""Adversarial regularization: a model is trained against an attacker that learns beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from datamodules.loaders import Batch
from datamodules.split import Split
from defenses.base import Defense
from defenses.inference_attacker import InferenceAttacker
from targets.fleet import Fitter

HELD_OUT = 10
"""One in so many members and reference records is kept from the attacker, to measure it on."""
SKILL = 0.1
"""How far a model must be from naming one class (0) to all its own records' classes (1), or it has collapsed."""
DEAD = 1e-7
"""A derivative of the attacker's belief that moves nothing."""


@dataclass(frozen=True, kw_only=True)
class AdversarialRegularization(Defense):
    """Minimizes cross-entropy + λ·(h(f(x), y) − ½), h being an attacker's belief in membership (Nasr et al. 2018).

    h learns all along to tell members from reference records. Predictions about members thus come to look like others
    to this attacker, not to every one: thresholds on the loss see more than it does (Song & Mittal 2021).

    Args:
        weight: λ > 0; a larger one protects more, until the model collapses.
        warm_up: epochs without h at first, at most half of all; then h learns for as many epochs alone.

    Raises:
        ValueError: if a value is out of range; in training, if the model collapses or h is dead.
    """

    separable, stackable, cost = False, False, 10.0
    roles = frozenset({"reference"})
    attacks = ("modified_entropy", "lira")
    weight: float
    warm_up: int

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"defense.weight={self.weight} must be above 0 and finite; use defense=none for 0")
        if not isinstance(self.warm_up, int) or isinstance(self.warm_up, bool) or self.warm_up < 0:
            raise ValueError(f"defense.warm_up={self.warm_up} is no count; choose a whole number from 0 on")

    @property
    def strength(self) -> float:
        return self.weight

    def callbacks(self, fitter: Fitter, split: Split) -> list[pl.Callback]:
        split.require("reference", who="defense=adversarial_regularization")
        return [Adversary(self.weight, self.warm_up, fitter, split)]


class Adversary(pl.Callback):
    """Trains the attacker, and puts its belief into the model's loss.

    Args:
        weight: λ.
        warm_up: see the defense.
        fitter: of the one model that is trained.
        split: its reference records are the attacker's non-members.
    """

    auc = math.nan
    """How well h tells members from reference records that it did not learn from, after the latest epoch."""

    def __init__(self, weight: float, warm_up: int, fitter: Fitter, split: Split):
        (self.model,) = fitter.models
        self.weight, self.warm_up, self.fitter = weight, min(warm_up, fitter.recipe.epochs // 2), fitter
        self.x, self.y = fitter.dataset.x, torch.as_tensor(fitter.dataset.y)
        self.attacker = InferenceAttacker(len(fitter.dataset.classes), fitter.secret, self.model)
        self.all_reference = split.reference

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.network: nn.Module = pl_module.network  # type: ignore[assignment]
        self.all_members = trainer.train_dataloader.sampler.members[0]  # type: ignore[union-attr]
        self.members, members = self._part("members", self.all_members)
        self.reference, reference = self._part("reference", self.all_reference)
        self.held_out = np.concatenate([members, reference])
        self.held_out_member = torch.arange(len(self.held_out)) < len(members)
        plain = pl_module.loss

        def regularized(logits: Float[Tensor, "batch classes"], batch: Batch, epoch: int) -> Float[Tensor, " batch"]:
            losses: Tensor = plain(logits, batch, epoch)  # type: ignore[operator]
            if epoch < self.warm_up:
                return losses
            return losses + self.weight * (self.attacker.belief(logits, batch.y) - 0.5)

        pl_module.loss = regularized  # type: ignore[assignment]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.warm_up:
            for step in range(self.warm_up * self.fitter.arithmetic.steps_per_epoch):
                rng = self.fitter.secret.numpy("attacker alone", self.model, step)
                self._learn(rng.choice(self.members, self.fitter.recipe.batch_size), rng)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.current_epoch >= self.warm_up:
            rng = self.fitter.secret.numpy("attacker", self.model, trainer.global_step)
            self._learn(np.setdiff1d(batch.records[batch.mask], self.held_out), rng)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.auc = self.attacker.auc(self._predict(self.held_out), self.y[self.held_out], self.held_out_member)
        pl_module.log("attacker_auc", self.auc)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        y = self.y[self.all_members]
        accuracy = float((self._predict(self.all_members).argmax(dim=-1) == y).float().mean())
        chance = float(y.bincount().max() / len(y))
        if accuracy < chance + SKILL * (1 - chance):
            raise ValueError(
                f"defense.weight={self.weight:g} made model {self.model} collapse: it is right about {accuracy:.0%} of"
                f" its own training records, naming always the same class about {chance:.0%}; lower it, or train longer"
            )
        if self.attacker.sensitivity(self._predict(self.held_out), self.y[self.held_out]) < DEAD:
            raise ValueError(
                f"defense.weight={self.weight:g} protects nothing: the attacker of model {self.model} is dead, its"
                " belief no longer depends on predictions; lower trainer.optimizer.lr, or change defense.warm_up"
            )

    def _learn(self, members: Int64[np.ndarray, " n"], rng: np.random.Generator) -> None:
        """A step of the attacker, on these members and as many reference records."""
        records = np.concatenate([members, rng.choice(self.reference, len(members))])
        self.attacker.learn(self._predict(records), self.y[records], torch.arange(len(records)) < len(members))

    def _predict(self, records: Int64[np.ndarray, " n"]) -> Float[Tensor, "n classes"]:
        """What the model says now, as it would when released."""
        self.network.eval()
        with torch.no_grad():
            logits: Tensor = self.network(torch.from_numpy(self.x[records]))
        self.network.train()
        return logits

    def _part(self, name: str, records: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, "_"]]:
        """What the attacker learns from, and what it is measured on."""
        shuffled = self.fitter.secret.numpy(f"attacker {name}", self.model).permutation(records)
        return np.split(shuffled, [len(records) - max(1, len(records) // HELD_OUT)])
