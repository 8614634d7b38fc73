"""A private fit, batch by batch: from the user's training_step to the noised mean in `p.grad`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from palisade.defenses.dp_sgd.alone import Alone, RecordByRecord
from palisade.defenses.dp_sgd.engine import Engine, LayerError, replace_attribute
from palisade.defenses.dp_sgd.microbatches import PhysicalBatches, batch_shape
from palisade.defenses.dp_sgd.step import PrivateStep
from palisade.defenses.dp_sgd.watch import Watch


class PrivateFit:
    """The work on every batch, in the order in which Lightning asks for it.

    Args:
        module: the user's.
        step: clips, noises and counts.
        watch: looks for what clipping and noise do not cover.
        max_physical_batch: rows that go through the network at once, at most; None for whole batches.
        warn: takes what the user should know.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        step: PrivateStep,
        watch: Watch,
        *,
        max_physical_batch: int | None,
        warn: Callable[[list[str]], object],
    ) -> None:
        self.module, self.step, self.watch, self.warn = module, step, watch, warn
        self.divisor = getattr(module, "loss_divisor", None)
        step.after_step = watch.after_step
        self._index = 0
        self._physical: PhysicalBatches | None = None
        if isinstance(step.clipped, Engine):
            self._physical = PhysicalBatches(
                module.training_step,
                shape=self._shape,
                unit_rows=step.mechanism.rows_per_unit,
                at_once=max_physical_batch,
                clip=self._clip,
                clear=self.clear,
                check=self._check,
            )

    def attach(self, trainer: pl.Trainer) -> list[Callable[[], object]]:
        """Puts itself in the place of training_step; returns what leaves module and trainer as they were."""
        step, to_device = self.step, trainer.strategy.batch_to_device
        step.clipped.attach()
        undo = [step.clipped.detach, step.attach()]
        if trainer.world_size > 1:  # it would wait for gradients that never come; the step sums instead
            trainer.strategy.model.require_backward_grad_sync = False  # type: ignore[union-attr]

        def arrive(batch: Any, *inputs: Any, **keywords: Any) -> Any:
            batch = to_device(batch, *inputs, **keywords)
            self.watch.arrived(batch, step.done)
            return batch

        undo.append(replace_attribute(trainer.strategy, "batch_to_device", arrive))
        undo.append(replace_attribute(self.module, "training_step", self._training_step()))
        return undo

    def begin(self, index: int) -> None:
        """Begins a batch, before the hooks that module and later callbacks have on it."""
        self._index = index
        self.watch.records.advance()
        self.step.begin(index)
        self.watch.rehearsal.started = True
        self.warn(self.watch.begin(self.step.done, index))

    def end(self) -> None:
        """Ends a batch, before the hook that the module has on that."""
        self.step.end()
        self.warn(self.watch.batch_done(self.step.done))

    def clear(self) -> None:
        """Clears what passes before the step's own left, such as those for adversarial examples."""
        self.step.clear_gradients()
        if isinstance(self.step.clipped, Engine):
            self.step.clipped.clear()

    def backward_done(self) -> None:
        """Clips the last part after the backward pass of a batch, and writes the noised mean."""
        physical = self._physical
        if physical is not None and not physical.empty and not self.step.written:
            self.watch.gradient_ready(self.step.done, self._index, physical.rows[-1], physical.whole[-1])
            self._clip(physical.rows)
        self._write()

    def _training_step(self) -> Callable[..., Any]:
        if isinstance(self.step.clipped, Alone):
            return RecordByRecord(
                self.step.clipped,
                self.module.training_step,
                number=lambda: self.step.done,
                observe=self.step.observe,
                check=self._check,
                empty=lambda batch: self._shape(batch)[-1] == 0,
            ).automatic()
        assert self._physical is not None
        if self.module.automatic_optimization:
            return self._physical.automatic()
        return self._physical.manual(step=functools.partial(self._step_without_records))

    def _shape(self, batch: Any) -> tuple[int, ...]:
        """Rows of the batch, as they were asked for."""
        records = self.watch.records
        if records.step is None:
            return batch_shape(batch, 2 if self.step.stacked else 1)
        rows = records.rows(records.step)
        return (len(self.step.models), rows) if self.step.stacked else (rows,)

    def _check(self, batch: Any) -> None:
        """Checks of a batch as training_step gets it, after all hooks."""
        self.watch.records.check_rows(batch, 2 if self.step.stacked else 1)
        self.watch.reached(batch)

    def _clip(self, rows: tuple[int, ...]) -> None:
        """Adds the part of a batch whose backward pass is done, of shape (batch,) or (models, batch), to the sum."""
        engine, per_unit = self.step.clipped, self.step.mechanism.rows_per_unit
        assert isinstance(engine, Engine)
        units = (*rows[:-1], rows[-1] // per_unit)
        try:
            self.step.observe(engine.clip(units, scale=self.divisor / per_unit if self.divisor else units[-1]))
        except LayerError as error:
            raise ValueError(f"{error}; or set per_record=alone") from error

    def _write(self) -> None:
        self.step.write()
        self.warn(self.watch.written(self.step.done))

    def _step_without_records(self) -> None:
        """A step of manual optimization whose batch is empty: noise, without the user's code."""
        self.step.clear_gradients()
        self._write()
        optimizer: Any = self.module.optimizers()
        optimizer.step()
        optimizer.zero_grad()
