"""One step of DP-SGD: clipped sums of physical batches, then noise, then the count of what was spent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from defenses.dp_sgd.clipping import CLIPPINGS
from defenses.dp_sgd.engine import Engine
from defenses.dp_sgd.journal import Journal
from defenses.dp_sgd.mechanism import Mechanism
from defenses.dp_sgd.noise import NoiseSource
from defenses.dp_sgd.optimizer import NoisyOptimizer
from defenses.dp_sgd.rules import check_resumed
from targets.stacks import transposed


class PrivateStep:
    """What happens between the backward pass and the user's optimizer.

    Args:
        module: the user's.
        optimizer: its only optimizer.
        mechanism: what every step has to follow.
        noise: where noise comes from.
        models: numbers of the models that are trained; several mean a stack.
        processes: how many train together.
        adds_noise: whether this process does; one of them must.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
        mechanism: Mechanism,
        noise: NoiseSource,
        models: Sequence[int],
        *,
        processes: int,
        adds_noise: bool,
    ):
        self.mechanism, self.noise, self.models, self.adds_noise = mechanism, noise, models, adds_noise
        stacked = len(models) > 1
        self.dimensions = 2 if stacked else 1
        self.done = 0
        """Steps accounted for so far."""
        self.clipping = CLIPPINGS[mechanism.clipping](mechanism.max_grad_norm, models=len(models))
        self.gradient_noise = self.clipping.gradient_noise(mechanism.noise_multiplier, mechanism.expected_batch_size)
        self.engine = Engine(module, clipping=self.clipping, stacked=stacked, rows_per_unit=mechanism.rows_per_unit)
        self.reduce: Callable[[Tensor], object] | None = torch.distributed.all_reduce if processes > 1 else None
        self.optimizer = NoisyOptimizer(
            optimizer,
            expected_batch_size=mechanism.expected_batch_size,
            models=len(models) if stacked else None,
            transposed=transposed(module),
            reduce=self.reduce,
        )
        self.optimizer.attach_step_hook(self._count)
        self.divisor = getattr(module, "loss_divisor", None)
        self.journal = Journal(self.engine.parameters)
        self._check_parameters()

    def state(self) -> dict[str, Any]:
        """Plain numbers, enough to go on from."""
        return {"steps_done": self.done, "bounds": list(self.clipping.bounds), **asdict(self.mechanism)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` said, if it is the same mechanism."""
        check_resumed(asdict(self.mechanism), state)
        self.done, self.clipping.bounds = state["steps_done"], list(state["bounds"])

    def clip(self, rows: tuple[int, ...]) -> None:
        """Adds a physical batch of shape (batch,) or (models, batch), whose backward pass is done, to the sum."""
        unit_rows = self.mechanism.rows_per_unit
        units = (*rows[:-1], rows[-1] // unit_rows)
        norms = self.engine.clip(units, scale=self.divisor / unit_rows if self.divisor else units[-1])
        self.clipping.observe(norms)
        self.journal.note(norms, norms > self.clipping.bound(norms))

    def release(self) -> None:
        """Leaves the sum, and what draws its noise, to the optimizer."""
        self._check_parameters()
        self.engine.write()
        self.optimizer.hold()
        if self.gradient_noise > 0 and self.adds_noise:
            self.optimizer.noise = [
                functools.partial(self.noise.fill, model=k, step=self.done, scale=self.gradient_noise * bound)
                for k, bound in zip(self.models, self.clipping.bounds, strict=True)
            ]

    def alone(self, module: pl.LightningModule) -> None:
        """A step of manual optimization whose batch is empty: noise, without the user's code."""
        self.release()
        optimizer: Any = module.optimizers()
        optimizer.step()
        optimizer.zero_grad()

    def _check_parameters(self) -> None:
        if set(self.optimizer.params) != set(self.engine.parameters):
            raise ValueError(
                "the optimizer's trainable parameters are not the module's; freeze before the fit what is not trained"
                " (requires_grad_(False)), and make what is trained a parameter of the module"
            )

    def _count(self, optimizer: Any) -> None:
        if self.done >= self.mechanism.steps:
            raise ValueError(f"step {self.done + 1} exceeds the T={self.mechanism.steps} planned steps; train anew")
        self.clipping.adapt(lambda k: self.noise.normal("clipping", self.models[k], self.done), self.reduce)
        self.done += 1
