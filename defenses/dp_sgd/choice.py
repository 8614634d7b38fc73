"""The choice of a way to per-record gradients: fast, functional, or every record alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.alone import Alone, Functional
from palisade.defenses.dp_sgd.checks import MAX_RECORDS_PER_LOOK, Checks, ComparedGradients
from palisade.defenses.dp_sgd.clipping import CLIPPING_CLASSES, Flat
from palisade.defenses.dp_sgd.engine import Engine, LayerError
from palisade.defenses.dp_sgd.gradients import ClippedSum
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.records import MAX_CANDIDATE_UNITS, FitRecords, diverse
from palisade.defenses.dp_sgd.rehearsal import Rehearsal, StepFailed

FUNCTIONAL_PARAMETERS = 2_000_000
"""Trained parameters above which vectorized gradients cost more than records one by one (`benchmarks/dp_speed.py`)."""
TRAINING_SLOWDOWN = {"fast": 1.0, "functional": 15.0, "alone": 30.0}
"""Time of a training each way, over that of the fast one; for plans."""
FEW_UNITS = 4
"""Units that vectorized gradients are tried on."""
COUPLED_RECORDS = (
    "training_step couples records: {how}, so clipping bounds nothing; use a loss that is a mean over records, or"
    " per_record=alone, which makes every record a batch of its own: class weights, negatives and statistics from the"
    " batch then lose their meaning"
)
UNLESS_UNCHECKED = ", or set unchecked=True, which gives up the guarantee"
NOT_COMPARED = (
    "training_step raised {kind} on a batch of one record or of a few, so nothing shows that records are not coupled;"
    f" make it take batches of any size{UNLESS_UNCHECKED}"
)
RECORDS_COUPLED_OVER_STEPS = (
    "a record's gradient changes with the records before it, through something that is no state of the module (a"
    " global, a class attribute, a closure, collate_fn); end that: no per_record= covers it"
)
SUMMED_LOSS = (
    "training_step returns the sum of the records' losses; return their mean, or set loss_divisor on the module"
)
RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
"""Layers with random numbers of their own."""
BY_LOSSES = "a batch's loss is not the mean of its records' losses"
BY_GRADIENTS = "a record's gradient changes with the others in its batch"


@dataclass(frozen=True)
class Choice:
    """The way a module is trained. It depends on records: for the terminal and `private/` alone.

    Args:
        way: fast, functional or alone.
        reason: in one line.
    """

    way: str
    reason: str


class Chooser:
    """Choice of the fastest way that is right for a module, or the reason why there is none.

    Args:
        module: the user's.
        wanted: auto, fast, functional or alone.
        rehearsal: of its training_step.
        records: of the fit.
        checks: compare batches with their records alone.
        clipping: what scales gradients down.
        secrets: of this fit, one for every model.
        models: their numbers.
        unchecked: whether to go on where the check cannot run.
    """

    def __init__(
        self,
        module: nn.Module,
        wanted: str,
        *,
        rehearsal: Rehearsal,
        records: FitRecords,
        checks: Checks,
        clipping: Flat,
        secrets: Sequence[Secret],
        models: Sequence[int],
        unchecked: bool,
    ) -> None:
        self.module, self.wanted, self.rehearsal, self.records, self.checks = module, wanted, rehearsal, records, checks
        self.clipping, self.secrets, self.models, self.unchecked = clipping, secrets, models, unchecked
        self._company: tuple[Any, Any] | None = None
        self.draws = any(isinstance(layer, RANDOM_LAYERS) and layer.training for layer in module.modules())
        """Use of random numbers by the module in training, so that a step's own pass cannot be compared."""

    @classmethod
    def of(
        cls,
        module: pl.LightningModule,
        wanted: str,
        *,
        records: FitRecords,
        mechanism: Mechanism,
        secrets: Sequence[Secret],
        models: Sequence[int],
        unchecked: bool,
    ) -> Chooser:
        """Chooser for a fit with this mechanism."""
        rehearsal = Rehearsal(module, module.training_step)
        clipping = CLIPPING_CLASSES[mechanism.clipping](mechanism.max_grad_norm, models=len(models))
        checks = Checks(
            rehearsal,
            records,
            mechanism,
            bounds=lambda: clipping.bounds,
            divisor=getattr(module, "loss_divisor", None),
            models=len(models),
        )
        return cls(
            module,
            wanted,
            rehearsal=rehearsal,
            records=records,
            checks=checks,
            clipping=clipping,
            secrets=secrets,
            models=models,
            unchecked=unchecked,
        )

    def make(self, way: str) -> ClippedSum:
        """The sum of clipped gradients, computed in a way that is chosen already."""
        if way == "fast":
            rows = self.records.rows_per_unit
            return Engine(self.module, clipping=self.clipping, stacked=len(self.models) > 1, rows_per_unit=rows)
        self._check_single(way)
        kind = Functional if way == "functional" else Alone
        return kind(
            self.module,
            self.clipping,
            rehearsal=self.rehearsal,
            records=self.records,
            secret=self.secrets[0],
            model=self.models[0],
        )

    def choose(self, limit: int = MAX_RECORDS_PER_LOOK) -> Choice:
        """The way, after the first check.

        Args:
            limit: units that are compared, at most.

        Raises:
            ValueError: if no way is right: the loss couples records, the check cannot run, or the way that is wanted is
                not right.
        """
        step = self.company(limit=limit)
        self.records.check_rows(self.records.batch(step), 2 if len(self.models) > 1 else 1, of=step)
        if self.wanted in ("auto", "fast"):
            choice = self._fast(step)
            if choice.way == "fast":
                return choice
            if self.wanted == "fast":
                raise ValueError(
                    f"per_record=fast: expected a module that it supports, but {choice.reason}; choose per_record=auto,"
                    " or alone"
                )
            reason = choice.reason
        else:
            reason = f"per_record={self.wanted} was chosen"
        if self.wanted in ("auto", "fast"):
            self._check_losses(step)
        self._check_single("alone")
        few = (
            self.records.some(step, range(min(FEW_UNITS, self.records.units(step)))) if self.records.separable else step
        )
        parameters = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        clipped = self.make("alone")
        assert isinstance(clipped, Alone)
        if self.records.units(step) > 1 and not clipped.by_itself(step, number=0):
            raise ValueError(RECORDS_COUPLED_OVER_STEPS)
        wants = self.wanted == "functional" or (self.wanted == "auto" and parameters <= FUNCTIONAL_PARAMETERS)
        if wants:
            functional = self.make("functional")
            assert isinstance(functional, Functional)
            if functional.tried(few):
                return Choice("functional", reason)
            reason += "; torch.func cannot compute it"
        return Choice("alone", reason)

    def company(self, number: int = 0, limit: int = MAX_RECORDS_PER_LOOK) -> Any:
        """A step of up to so many records that differ; all of a step whose records have no names.

        Args:
            number: of the look; every look has records of its own.
            limit: how many.
        """
        key = number, limit, self.records
        if self._company is None or self._company[0] != key:
            step = self.records.first(
                min(MAX_CANDIDATE_UNITS, MAX_CANDIDATE_UNITS // MAX_RECORDS_PER_LOOK * limit), number
            )
            if self.records.separable:
                step = self.records.some(step, diverse(self.records, step, limit, 2 if len(self.models) > 1 else 1))
            self._company = key, step
        return self._company[1]

    def _fast(self, step: Any) -> Choice:
        try:
            engine = self.make("fast")
        except LayerError as error:
            return Choice("alone", str(error))
        assert isinstance(engine, Engine)
        columns = range(min(MAX_RECORDS_PER_LOOK, self.records.units(step)))
        engine.attach()
        try:
            compared = self.checks.compare(engine, step, columns)
        except LayerError as error:
            return Choice("alone", str(error))
        except StepFailed as error:
            if self.unchecked:
                return Choice("fast", "nothing could be checked")
            raise ValueError(NOT_COMPARED.format(kind=type(error.__cause__).__name__)) from error.__cause__
        finally:
            engine.detach()
        self.draws = self.draws or compared.random or self.checks.draws(step)
        if compared.random and compared.losses is not None and self.checks.is_scaled(*compared.losses):
            raise ValueError(COUPLED_RECORDS.format(how="its loss grows with the batch's size"))
        if compared.alike or self.checks.agree_in_double(step, columns):
            return Choice(
                "fast", "every trainable layer is known, and records alone have the gradients they have in company"
            )
        self._check_coupled(step, columns, compared)
        return Choice("alone", "a layer mixes records: their gradients differ in company although their losses do not")

    def _check_coupled(self, step: Any, columns: Sequence[int], compared: ComparedGradients) -> None:
        """Raises ValueError where not a layer but the loss is what couples records."""
        if compared.losses is None or compared.random:  # or too many records to compare
            raise ValueError(COUPLED_RECORDS.format(how=BY_GRADIENTS))
        if self.checks.is_sum(*compared.losses):
            raise ValueError(SUMMED_LOSS)
        if not self.checks.is_mean(*compared.losses) or self.checks.losses_alike(step, columns) is False:
            raise ValueError(COUPLED_RECORDS.format(how=f"{BY_GRADIENTS}, and {BY_LOSSES}"))

    def _check_losses(self, step: Any) -> None:
        """Raises ValueError where records alone would be trained on another loss than the user's."""
        columns = range(min(MAX_RECORDS_PER_LOOK, self.records.units(step)))
        try:
            alike = self.checks.losses_alike(step, columns)
        except StepFailed as error:
            raise ValueError(
                f"training_step raised {type(error.__cause__).__name__} on a batch of one record or of a few, and this"
                " module is trained record by record; where squeeze() drops the batch dimension, use squeeze(-1)"
            ) from error.__cause__
        if alike is False:
            raise ValueError(COUPLED_RECORDS.format(how=BY_LOSSES))

    def _check_single(self, way: str) -> None:
        if len(self.models) > 1:
            raise ValueError(f"per_record={way}: expected one model at a time, not a stack; set fleet.at_once=1")
        if not getattr(self.module, "automatic_optimization", True):
            raise ValueError(
                f"automatic_optimization=False: expected True with per_record={way}, which this module needs; let"
                " Lightning call backward and step"
            )


def slowdown(network: nn.Module, way: str) -> float:
    """Time of a training over that of the fast way, as far as a network's layers show before loss and records do."""
    if way == "auto":
        try:
            Engine(network)
            way = "fast"
        except LayerError:
            parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
            way = "functional" if parameters <= FUNCTIONAL_PARAMETERS else "alone"
    return TRAINING_SLOWDOWN[way]
