"""Checks of the fast way: a record's gradient in company is that of the record alone."""

from __future__ import annotations

import copy
import functools
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from palisade.data.placement import in_double, in_highest_precision
from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.engine import Engine, Notes
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.microbatches import map_tensors
from palisade.defenses.dp_sgd.records import FitRecords
from palisade.defenses.dp_sgd.rehearsal import SHARED_SEED, Rehearsal

RECORD_TOLERANCE = 1e-5
"""Largest difference of a record's gradients in company and alone, over max(C, norm): float32 rounding."""
SUM_TOLERANCE = 1e-3
"""Largest difference of the clipped sums of a real batch, over C."""
LOSS_TOLERANCE = 1e-4
"""Relative, of a batch's loss and the mean of its records' losses."""
MIN_LOSS_RECORDS, MAX_LOSS_RATIO = 8, 3.0
"""Records whose mean loss says something where losses are random; by how many times it may then be off."""
SEEN_BY_AUTOGRAD = 2
"""Records whose gradients alone are compared with plain autograd's besides: nothing of book-keeping is in these."""
WEIGHT_JITTER = 0.05
"""Standard deviations by which weights are moved where losses must agree elsewhere too."""


@dataclass(frozen=True)
class ComparedGradients:
    """Outcome of one comparison.

    Args:
        alike: whether every record's gradient, and the clipped sum, are what they are alone.
        losses: of the batch, and of its records alone, where all were compared.
        random: whether the module draws random numbers besides dropout, so that losses agree in size alone.
    """

    alike: bool
    losses: tuple[float, list[float]] | None = None
    random: bool = False


@dataclass(frozen=True)
class Difference:
    """Difference between two gradients of each of some units.

    Args:
        alike: whether it is no more than rounding.
        clipped_at_most: a bound on the norm of the sum after clipping.
        clipped: notes of the difference of the clipped gradients; None where there is no number for it.
    """

    alike: bool
    clipped_at_most: float
    clipped: Callable[[], Notes] | None


class Checks:
    """Compares batches with their records alone, on the module as it is at that moment.

    Dropout is off in both passes. Where a module draws other random numbers, a record is compared in its own row of
    batches of the same size and seed, among other companions.

    Args:
        rehearsal: of the user's training_step.
        records: makes batches of some records.
        mechanism: has C and the expected batch size.
        bounds: C of every model, as it is now.
        divisor: what the module's loss is divided by; None for a mean.
        models: how many are trained together.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        records: FitRecords,
        mechanism: Mechanism,
        *,
        bounds: Callable[[], Sequence[float]],
        divisor: float | None,
        models: int = 1,
    ) -> None:
        self.rehearsal, self.records, self.mechanism, self.bounds = rehearsal, records, mechanism, bounds
        self.divisor, self.models = divisor, models

    def compare(self, engine: Engine, step: Any, columns: Sequence[int], *, index: int = 0) -> ComparedGradients:
        """Every unit in some columns of a step, in company and alone.

        Args:
            engine: attached to the module.
            step: the company.
            columns: units that are compared, of every model of a stack.
            index: of the batch, as training_step gets it.

        Raises:
            LayerError: if book-keeping cannot be used.
            StepFailed: if the user's code raises.
        """
        with self.rehearsal.session(dropout=False), engine.aside():
            loss, company = self._pass(engine, step, index, notice=True)
            if self.rehearsal.drew:
                each = [float(self._pass(engine, self.records.some(step, [column]), index)[0]) for column in columns]
                losses = (float(loss), each) if len(columns) == self.records.units(step) >= MIN_LOSS_RECORDS else None
                return ComparedGradients(self._among_others(engine, step, columns, company, index), losses, random=True)
            return self._to_alone(engine, step, columns, company, loss, index)

    def step_alike(self, engine: Engine, step: Any, company: Notes, column: int, *, units: int, index: int) -> bool:
        """Agreement of a unit's gradient, as the step itself noted it, with that of the unit alone.

        For modules that draw no random numbers.

        Args:
            engine: attached to the module.
            step: that the batch came from.
            company: the step's notes on this unit.
            column: the unit's place in the step.
            units: by how many the step's loss was divided.
            index: of the batch.
        """
        with self.rehearsal.session(dropout=False, weights=False), engine.aside():
            _, alone = self._pass(engine, self.records.some(step, [column]), index)
            return self._difference(company, _norms(company, self._scale(units)), units, alone).alike

    def draws(self, step: Any) -> bool:
        """Use of random numbers by training_step in training, dropout included."""
        with self.rehearsal.session():
            self.rehearsal.loss(lambda: self.records.batch(step), seed=SHARED_SEED)
            return self.rehearsal.drew

    def losses_alike(self, step: Any, columns: Sequence[int]) -> bool | None:
        """Agreement of the batch's loss with its records' mean, here and at weights near by; None if random."""
        step = self.records.some(step, columns) if self.records.separable else step
        units = range(self.records.units(step))
        with self.rehearsal.session(dropout=False):
            weights = [p for p in self.rehearsal.module.parameters() if p.requires_grad]
            before = [p.detach().clone() for p in weights]
            for jitter in (0.0, WEIGHT_JITTER):
                self.rehearsal.put_back()
                self._move(weights, before, jitter)
                self.rehearsal.rebase()
                whole = float(self.rehearsal.loss(lambda: self.records.batch(step), seed=SHARED_SEED))
                if self.rehearsal.drew:
                    return None
                each = [
                    float(self.rehearsal.loss(functools.partial(self.records.batch, single), seed=SHARED_SEED))
                    for single in (self.records.some(step, [unit]) for unit in units)
                ]
                if not self.is_mean(whole, each):
                    return False
        return True

    def is_mean(self, whole: float, each: Sequence[float]) -> bool:
        """Agreement of a batch's loss with the mean of its records' losses."""
        expected = sum(each) if self.divisor else float(np.mean(each))
        return _near(whole, expected, each)

    def is_scaled(self, whole: float, each: Sequence[float]) -> bool:
        """Difference in scale between a batch's loss and its records' losses, which may be random."""
        expected = sum(each) if self.divisor else float(np.mean(each))
        return not 1 / MAX_LOSS_RATIO <= abs(whole) / max(abs(expected), 1e-12) <= MAX_LOSS_RATIO

    def is_sum(self, whole: float, each: Sequence[float]) -> bool:
        """Agreement of a batch's loss with the sum of several records' losses, where the mean was stated."""
        return not self.divisor and len(each) > 1 and _near(whole, sum(each), each)

    def agree_in_double(self, step: Any, columns: Sequence[int], *, index: int = 0) -> bool:
        """Comparison in double precision, on a copy: shows if a difference was rounding alone."""
        module = self.rehearsal.module
        trainer = module.__dict__.get("_trainer")
        try:
            copied = copy.deepcopy(module, {id(trainer): trainer})
            copied.to(place := in_double(torch.zeros((), device=module.device)).device).double()
            copied.__dict__["_trainer"] = trainer  # which Lightning leaves out of copies
            for layer in copied.modules():
                layer.__dict__.pop("forward", None)
            copied.__dict__.pop("training_step", None)
            own: Any = self.rehearsal.training_step
            if getattr(own, "__self__", None) is not module:
                return False
            rehearsal = Rehearsal(copied, types.MethodType(own.__func__, copied))
            rehearsal.callbacks = self.rehearsal.callbacks
            transfer = self.records.transfer

            def transferred(batch: Any) -> Any:
                return map_tensors(transfer(batch), lambda t: in_double(t) if t.is_floating_point() else t.to(place))

            records = copy.copy(self.records)
            records.transfer = transferred
            checks = Checks(
                rehearsal, records, self.mechanism, bounds=self.bounds, divisor=self.divisor, models=self.models
            )
            engine = Engine(copied, stacked=self.models > 1, rows_per_unit=records.rows_per_unit)
            engine.attach()
            return checks.compare(engine, step, columns, index=index).alike
        except Exception:  # of a copy, or of code that knows one precision only: nothing is shown then
            return False

    def _to_alone(
        self, engine: Engine, step: Any, columns: Sequence[int], company: Notes, loss: Tensor, index: int
    ) -> ComparedGradients:
        units = self.records.units(step)
        norms = _norms(company, self._scale(units))
        losses, alone, alike = [], [], True
        for place, column in enumerate(columns):
            single = self.records.some(step, [column])
            one, notes = self._pass(engine, single, index)
            losses.append(float(one))
            alone.append(notes)
            if place < (SEEN_BY_AUTOGRAD if len(columns) > FEW_RECORDS_PER_LOOK else 1):
                alike = alike and self._as_autograd(engine, single, notes, index)
        together = Notes.joined(alone)
        pairs = (
            [([c], notes) for c, notes in zip(columns, alone, strict=True)]
            if together is None
            else [(columns, together)]
        )
        differences = [
            self._difference(company.some(some), norms[..., list(some)], units, notes) for some, notes in pairs
        ]
        tolerance = SUM_TOLERANCE * min(self.bounds()) * min(1.0, len(columns) / self.mechanism.expected_batch_size)
        if sum(each.clipped_at_most for each in differences) > tolerance:  # what they are off by may cancel
            alike = alike and _norm_of_sum(differences) <= tolerance
        alike = alike and all(each.alike for each in differences)
        return ComparedGradients(alike, (float(loss), losses) if len(columns) == units else None)

    def _among_others(self, engine: Engine, step: Any, columns: Sequence[int], company: Notes, index: int) -> bool:
        """Every other row with another record in it, then the rows between."""
        units = self.records.units(step)
        if units < 2 or not self.records.separable:
            return True
        norms = _norms(company, self._scale(units))
        for parity in (0, 1):
            mixed = [unit if unit % 2 == parity else (unit + 1) % units for unit in range(units)]
            _, again = self._pass(engine, self.records.some(step, mixed), index)
            some = [column for column in columns if column % 2 == parity and mixed[column] == column]
            pair = company.some(some), again.some(some)
            if some and not self._difference(pair[0], norms[..., some], units, pair[1], units).alike:
                return False
        return True

    def _pass(self, engine: Engine, step: Any, index: int, *, notice: bool = False) -> tuple[Tensor, Notes]:
        """Loss and notes of a batch, and its use of random numbers where that is asked for."""

        def backward(loss: Tensor) -> None:
            engine.clear()
            loss.backward()  # type: ignore[no-untyped-call]

        loss = self.rehearsal.loss(
            lambda: self.records.batch(step), seed=SHARED_SEED, backward=backward, index=index, notice=notice
        )
        units = self.records.units(step)
        engine.complete = True  # a record alone need not reach every layer
        notes = engine.notes((self.models, units) if self.models > 1 else (units,))
        engine.clear()
        return loss, notes

    def _difference(self, company: Notes, norms: Tensor, units: int, alone: Notes, alone_units: int = 1) -> Difference:
        """Difference of units' gradients in company, whose norms are known, and alone."""
        scale, alone_scale = self._scale(units), self._scale(alone_units)
        alone_norms = _norms(alone, alone_scale)
        bounds = norms.new_tensor(self.bounds()).view(-1, *[1] * (norms.ndim - 1))
        finite = norms.isfinite() & alone_norms.isfinite()
        if not finite.all():  # what is not finite counts as zero, both times
            if not torch.equal(norms.isfinite(), alone_norms.isfinite()):
                return Difference(False, math.inf, None)
            company, alone = company.where(finite), alone.where(finite)
            norms, alone_norms = norms.where(finite, 0), alone_norms.where(finite, 0)
        off = _norms(company.difference(alone, scale, alone_scale), 1.0)
        weight, alone_weight = (bounds / each.maximum(bounds) for each in (norms, alone_norms))
        clipped = weight * off + (weight - alone_weight).abs() * alone_norms
        return Difference(
            bool((off <= RECORD_TOLERANCE * norms.maximum(alone_norms).maximum(bounds)).all()),
            float(clipped.sum()),
            lambda: company.difference(alone, scale * weight, alone_scale * alone_weight),
        )

    def _as_autograd(self, engine: Engine, single: Any, alone: Notes, index: int) -> bool:
        """Agreement of book-keeping's gradient of a unit alone with plain autograd's."""
        of_loss: list[tuple[Tensor | None, ...]] = []
        with engine.aside(recording=False):
            self.rehearsal.loss(
                lambda: self.records.batch(single),
                seed=SHARED_SEED,
                backward=lambda loss: of_loss.append(torch.autograd.grad(loss, engine.parameters, allow_unused=True)),
                index=index,
            )
        shape = (self.models, 1) if self.models > 1 else (1,)
        total = alone.total(engine.parameters[0].new_ones(shape))
        squared = reference = 0.0
        for parameter, gradient in zip(engine.parameters, of_loss[0], strict=True):
            zero = torch.zeros_like(parameter)
            plain = zero if gradient is None else gradient
            squared += float(in_double(total.get(parameter, zero) - plain).square().sum())
            reference += float(in_double(plain).square().sum())
        floor = min(self.bounds()) / self._scale(1)
        return not squared**0.5 > 10 * RECORD_TOLERANCE * max(reference**0.5, floor)

    def _scale(self, units: int) -> float:
        """Factor from the gradient of a batch of so many to a unit's gradient."""
        return self.divisor / self.records.rows_per_unit if self.divisor else float(units)

    @staticmethod
    @torch.no_grad()
    def _move(weights: Sequence[Tensor], before: Sequence[Tensor], jitter: float) -> None:
        generator = torch.Generator().manual_seed(SHARED_SEED)
        for parameter, value in zip(weights, before, strict=True):
            spread = float(in_double(value).std()) if value.numel() > 1 else 0.0
            noise = torch.randn(value.shape, generator=generator).to(value)
            parameter.data.copy_(value + jitter * max(spread, 0.1) * noise if jitter else value)


class Pace:
    """Frequency of the checks, by public numbers alone, so that they cost a few per cent of a long training.

    Args:
        parameters: that are trained, of one model.
        batch_size: expected.
        steps: T.
        steps_per_epoch: of a pass over N records.
        drawing: whether the module draws random numbers, so that a check in a step needs a pass of its own.
    """

    def __init__(self, *, parameters: int, batch_size: float, steps: int, steps_per_epoch: int, drawing: bool) -> None:
        self.steps, self.steps_per_epoch = steps, max(steps_per_epoch, 1)
        self.epochs = -(-steps // self.steps_per_epoch)
        self.cost = alone_cost(parameters, batch_size)
        looks = STEP_BUDGET * max(steps, LONG_TRAINING_STEPS) / (self.cost + (1.0 if drawing else 0.0))
        self.every = max(1, math.ceil(steps / looks))

    @classmethod
    def of(cls, mechanism: Mechanism, parameters: Sequence[Tensor], *, models: int, drawing: bool) -> Pace:
        """Pace of a fit with this mechanism, which trains these parameters."""
        return cls(
            parameters=sum(parameter.numel() for parameter in parameters) // models,
            batch_size=mechanism.expected_batch_size,
            steps=mechanism.steps,
            steps_per_epoch=math.ceil(1 / mechanism.sampling_rate),
            drawing=drawing,
        )

    def records(self, epoch: int) -> int:
        """Records that are compared before an epoch: many at 1, 2, 4, 8, …, few at the others."""
        steps = max(self.steps, LONG_TRAINING_STEPS)
        if epoch & (epoch - 1) == 0:
            return int(
                min(MAX_RECORDS_PER_LOOK, EPOCH_BUDGET * steps / self.cost / max((self.epochs - 1).bit_length(), 1))
            )
        return int(min(FEW_RECORDS_PER_LOOK, EPOCH_BUDGET * steps / self.cost / self.epochs))

    def due(self, step: int) -> bool:
        """True if a record of this step is compared: in each of the first steps, then in every k-th."""
        return step < FIRST_STEPS or step % self.every == 0

    def missed(self, share: float = 0.01) -> float:
        """Chance that a coupling which shows in that share of batches is never seen."""
        steps = min(self.steps, FIRST_STEPS) + max(0, self.steps - FIRST_STEPS) // self.every
        epochs = sum(self.records(epoch) > 2 for epoch in range(1, self.epochs))
        return float((1 - share) ** (1 + epochs + steps))


MAX_RECORDS_PER_LOOK, FEW_RECORDS_PER_LOOK = 128, 8
LONG_TRAINING_STEPS, FIRST_STEPS = 400, 16
"""Steps from which on a training is long; shorter ones are looked at as much. Steps that are all looked at."""
STEP_BUDGET, EPOCH_BUDGET = 0.01, 0.007
"""Share of a long training's time that checks in steps, and before epochs, may take."""
COST_OF_A_RECORD_ALONE: dict[int, dict[int, float]] = {
    10_000: {16: 1.0, 64: 1.0, 256: 0.7, 1024: 0.3, 4096: 0.1},
    100_000: {16: 1.0, 64: 0.8, 256: 0.5, 1024: 0.2, 4096: 0.05},
    1_000_000: {16: 0.4, 64: 0.3, 256: 0.2, 1024: 0.05, 4096: 0.015},
    10_000_000: {16: 0.3, 64: 0.2, 256: 0.15, 1024: 0.04, 4096: 0.01},
}
"""Time of a record alone over that of a step, by parameters and batch size; from `benchmarks/dp_speed.py`."""


def alone_cost(parameters: int, batch_size: float) -> float:
    """The entry of the table that is nearest and not cheaper."""
    row = COST_OF_A_RECORD_ALONE[
        max((size for size in COST_OF_A_RECORD_ALONE if size <= parameters), default=min(COST_OF_A_RECORD_ALONE))
    ]
    return row[max((size for size in row if size <= batch_size), default=min(row))]


def chosen(secret: Secret, step: int, units: int) -> int:
    """The unit of a step that is checked: a function of the secret, so that no code can evade it."""
    return int(secret.numpy("watched", step=step).integers(units))


def _norms(notes: Notes, scale: float) -> Float[Tensor, "*models units"]:
    if not notes.of_layers:
        return torch.zeros(1)
    return scale * in_highest_precision(notes.gradients()[0]).sum(0).sqrt()


def _norm_of_sum(differences: Sequence[Difference]) -> float:
    total: dict[Any, Tensor] = {}
    for clipped in (each.clipped for each in differences if each.clipped is not None):
        notes = clipped()
        deltas = next(deltas for tapes in notes.of_layers.values() for _, deltas in tapes if deltas)
        for parameter, value in notes.total(deltas[0].new_ones(deltas[0].shape[: notes.axis + 1])).items():
            total[parameter] = total[parameter] + value if parameter in total else value
    return float(sum(in_double(value).square().sum() for value in total.values()) ** 0.5)


def _near(one: float, other: float, each: Sequence[float]) -> bool:
    if not (np.isfinite(one) and np.isfinite(other)):
        return not np.isfinite(one) and not np.isfinite(other)
    return abs(one - other) <= LOSS_TOLERANCE * max(abs(one), float(np.abs(each).mean()), 1e-12)
