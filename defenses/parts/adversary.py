"""Attackers that learn beside the models they attack, and count in their losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from palisade.data.loaders import Batch, Step
from palisade.data.placement import on_device, rows
from palisade.data.split import Split
from palisade.defenses.parts.inference_attacker import InferenceAttacker, Shown
from palisade.targets.fleet import Fitter

LEARNING_RATE = 1e-3
"""Learning rate of the attacker, whose optimizer is Adam."""
HELD_OUT = 10
"""One in so many members and reference records is kept from the attacker, to measure it on."""
MIN_SKILL = 0.1
"""Share of the way from naming one class (0) to all its own records' classes (1); below it a model has collapsed."""
DEAD_DERIVATIVE = 1e-7
"""A derivative of the attacker's belief that moves nothing."""


class Adversary(pl.Callback):
    """Trains an attacker beside each model, and puts its belief into the model's loss.

    Args:
        weight: λ.
        warm_up: see the defense.
        fitter: of the models that are trained, alone or as a stack.
        split: its reference records are the attackers' non-members.
    """

    def __init__(self, weight: float, warm_up: int, fitter: Fitter, split: Split) -> None:
        self.weight, self.warm_up, self.fitter = weight, min(warm_up, fitter.recipe.epochs // 2), fitter
        self.device, self.models = fitter.device, fitter.models
        self.x, self.y = fitter.dataset.x, on_device(fitter.dataset.y, self.device)
        attacker = InferenceAttacker.side_by_side(len(fitter.dataset.classes), fitter.secret, self.models)
        self.attacker = attacker.to(self.device)
        self.optimizer = torch.optim.Adam(self.attacker.parameters(), lr=LEARNING_RATE, fused=True)
        self.all_reference = split.reference
        self.steps: Iterator[Step] = iter(())
        self.aucs = torch.full((len(self.models),), math.nan)
        """AUC of h on members and reference records that it did not learn from, after the latest epoch, by model."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook before training: parts the records, and puts the attacker's belief into the loss."""
        self.network: nn.Module = pl_module.network  # type: ignore[assignment]
        self.all_members: list[Int64[np.ndarray, "_"]] = trainer.train_dataloader.sampler.members  # type: ignore[union-attr]
        self.members, members = self._parts("members", self.all_members)
        self.reference, reference = self._parts("reference", [self.all_reference] * len(self.models))
        self.held_out = self._shown(members, reference)
        plain = pl_module.loss

        def regularized(
            logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int
        ) -> Float[Tensor, "*models batch"]:
            losses: Tensor = plain(logits, batch, epoch)  # type: ignore[operator]
            if epoch < self.warm_up:
                return losses
            stacked = logits.view(len(self.models), -1, logits.shape[-1])
            belief = self.attacker.belief(stacked, batch.y.view(stacked.shape[:-1]))
            return losses + self.weight * (belief.view(losses.shape) - 0.5)

        pl_module.loss = regularized  # type: ignore[assignment]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook before an epoch: right after the warm-up, the attacker learns alone for as many steps."""
        # The sampler gives the same steps again: read from the batches, each would make the CPU wait for the device.
        self.steps = iter(trainer.train_dataloader.sampler)  # type: ignore[union-attr]
        if trainer.current_epoch == self.warm_up:
            for step in range(self.warm_up * self.fitter.schedule.steps_per_epoch):
                rngs = [self.fitter.secret.numpy("attacker alone", model, step) for model in self.models]
                size = self.fitter.recipe.batch_size
                self._learn([rng.choice(own, size) for rng, own in zip(rngs, self.members, strict=True)], rngs)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Lightning's hook before a step: the attacker's own step on the batch's members."""
        step = next(self.steps)
        if trainer.current_epoch >= self.warm_up:
            rngs = [self.fitter.secret.numpy("attacker", model, trainer.global_step) for model in self.models]
            rows = zip(*step, self.members, strict=True)
            self._learn([np.intersect1d(records[mask], own) for records, mask, own in rows], rngs)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: logs the attacker's AUC on records that it did not learn from."""
        records = self.held_out.records
        self.aucs = self.attacker.aucs(self._predict(records), self.y[records], self.held_out)
        pl_module.log("attacker_auc", self.aucs.mean())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after training: looks at models and attackers, and lets go of the device's memory.

        Raises:
            ValueError: if a model names always one class, or its attacker no longer depends on predictions.
        """
        members = self._shown(self.all_members, [members[:0] for members in self.all_members])
        right = self._predict(members.records).argmax(dim=-1) == self.y[members.records]
        held_out = self.held_out.records
        slopes = self.attacker.sensitivity(self._predict(held_out), self.y[held_out])
        for k, model in enumerate(self.models):
            y = self.y[self.all_members[k]]
            accuracy, chance = float(right[k, : len(y)].float().mean()), float(y.bincount().max() / len(y))
            if accuracy < chance + MIN_SKILL * (1 - chance):
                raise ValueError(
                    f"defense.weight={self.weight:g}: expected models that learn, but model {model} is right about"
                    f" {accuracy:.0%} of its own training records, where one class for all is right about {chance:.0%};"
                    " lower it, or train longer"
                )
            if slopes[k] < DEAD_DERIVATIVE:
                raise ValueError(
                    f"defense.weight={self.weight:g}: expected an attacker that learns, but the predicted membership of"
                    f" that of model {model} no longer depends on predictions; lower trainer.optimizer.lr, or change"
                    " defense.warm_up"
                )
        self.attacker.cpu()
        self.aucs = self.aucs.cpu()
        del self.optimizer, self.held_out, self.network

    def _learn(self, members: Sequence[Int64[np.ndarray, "_"]], rngs: Sequence[np.random.Generator]) -> None:
        """A step of each attacker, on these members and as many reference records."""
        drawn = [rng.choice(own, len(inside)) for rng, own, inside in zip(rngs, self.reference, members, strict=True)]
        shown = self._shown(members, drawn)
        self.optimizer.zero_grad()
        self.attacker.loss(self._predict(shown.records), self.y[shown.records], shown).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _shown(self, members: Sequence[Int64[np.ndarray, "_"]], others: Sequence[Int64[np.ndarray, "_"]]) -> Shown:
        return Shown.of(members, others).to(self.device)

    def _predict(self, records: Int64[np.ndarray, "models n"]) -> Float[Tensor, "models n classes"]:
        """Logits of the models as they are now, in evaluation mode."""
        x = rows(self.x, records, self.device)
        self.network.eval()
        with torch.no_grad():
            logits: Tensor = self.network(x if len(self.models) > 1 else x[0])
        self.network.train()
        return logits.view(*records.shape, -1)

    def _parts(self, name: str, records: Sequence[Int64[np.ndarray, "_"]]) -> list[list[Int64[np.ndarray, "_"]]]:
        """Records that each attacker learns from, and records that it is measured on."""
        learnt, held_out = [], []
        for model, of_one in zip(self.models, records, strict=True):
            shuffled = self.fitter.secret.numpy(f"attacker {name}", model).permutation(of_one)
            learnt_count = len(of_one) - max(1, len(of_one) // HELD_OUT)
            learnt.append(shuffled[:learnt_count])
            held_out.append(shuffled[learnt_count:])
        return [learnt, held_out]
