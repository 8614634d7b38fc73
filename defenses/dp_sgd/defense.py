"""DP-SGD as a selectable defense: private training of every model of a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from pydantic import Field
from pytorch_lightning import Callback
from torch import Tensor, nn

from palisade.data.draws import Draws
from palisade.data.loaders import Batch, Poisson
from palisade.data.split import Split
from palisade.defenses.dp_sgd import fleets
from palisade.defenses.dp_sgd.callback import DPSGD
from palisade.defenses.dp_sgd.choice import slowdown
from palisade.defenses.dp_sgd.rules import check_words
from palisade.defenses.none import NoDefense
from palisade.fields import Count, CountFromZero, Fraction, Positive, remedy
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.statement import Statement


@dataclass(frozen=True, kw_only=True)
class DPSGDDefense(Defense):
    """Clips every record's gradient and adds noise, so that no record moves the weights by much (Abadi et al. 2016).

    It proves an ε that bounds every attack, known or not.

    Args:
        epsilon: ε > 0 that the noise is calibrated for; inf clips without noise and guarantees nothing.
        delta: δ below 1/N; N^−1.1 if None.
        max_grad_norm: C > 0, the norm that gradients are clipped to.
        clipping: flat, per_layer, automatic or adaptive.
        weight_averaging: whether to release the exponential moving average of the weights (De et al. 2022,
            section 3.4), with decay min(0.9999, (1 + t)/(10 + t)). Checkpoints hold the weights themselves.
        augmentations: copies of each record in a step, which the base makes different; their gradients are averaged
            before clipping, so that ε is that of one copy (De et al. 2022, section 3.2).
        max_physical_batch: rows, copies included, that go through the network at once, at most; None for whole batches.
        records_per_person: records of a person that take part in a step, at most, where the data name persons; ε then
            holds for a person with all records. None: ε holds for one record.
        secure_rng: whether noise is drawn against floating-point attacks; a release always is.
        tuning_runs: trainings on the same records that the settings were chosen by; ε does not cover the choice.
        per_record: how a record's gradient is computed: auto, fast, functional or alone; settled once for a run.
        base: whose inputs, loss and network are trained privately; see `bases.py` for what it may be.

    Raises:
        ValueError: if a value is out of range, or if ε would not hold for the base.
    """

    epsilon: Annotated[float, Field(gt=0), remedy("choose e.g. 8, or inf for clipping only")]
    delta: Annotated[Fraction, remedy("choose a value below 1/N, or null")] | None = None
    max_grad_norm: Positive = 1.0
    clipping: str = "flat"
    weight_averaging: bool = False
    augmentations: Count = 1
    max_physical_batch: Count | None = None
    records_per_person: Count | None = None
    secure_rng: bool = False
    tuning_runs: CountFromZero = 0
    per_record: str = "auto"
    base: Defense = field(default_factory=NoDefense)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words(self.clipping, self.per_record)
        fleets.check_base(self.base)
        fleets.check_copies(self.augmentations, self.base)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks that know how to get around the base."""
        return self.base.attacks

    @property
    def stackable(self) -> bool:
        """Stacks only where the base allows them, and where the batch's one backward pass may give the gradients."""
        return self.base.stackable and self.per_record in ("auto", "fast")

    @property
    def cost(self) -> float:
        """Twice the base's cost for every copy, for the fast way; `slowdown` adds that of the network."""
        return 2 * self.base.cost * self.augmentations

    @property
    def strength(self) -> float:
        """The ε that the noise is calibrated for."""
        return self.epsilon

    def units(self, split: Split) -> int:
        """Persons in the pool where the claim holds for persons, records elsewhere."""
        persons = fleets.persons_of(split, self.records_per_person)
        return len(split.pool) if persons is None else len(np.unique(persons[split.pool]))

    def sampler(
        self, members: Sequence[Int64[ndarray, "_"]], models: Sequence[int], fitter: Fitter, split: Split
    ) -> Poisson:
        """Poisson sampling of records, or of persons with a bounded number of records each."""
        bound, copies = self.records_per_person, self.augmentations
        return fleets.sampler_of(fitter, split, members, models, records_per_person=bound, augmentations=copies)

    def network(self, network: nn.Module) -> nn.Module:
        """The architecture that the base makes of it."""
        return self.base.network(network)

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        """The base's inputs, which depend on each record alone."""
        return self.base.inputs(batch, draws)

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """The base's loss of every record."""
        return self.base.loss(logits, batch, epoch)

    def callbacks(self, fitter: Fitter, split: Split) -> list[Callback]:
        """The base's callbacks, then DP-SGD, then the average of the weights if it is released."""
        shared = {name: getattr(self, name) for name in fleets.SHARED_SETTINGS}
        width = fleets.step_width(fitter, (self.records_per_person or 1) * self.augmentations)
        dp_sgd = fleets.OfFleet(fitter, self.base, epsilon=self.epsilon, width=width, **shared)
        fleets.check_callbacks(self.base, base := self.base.callbacks(fitter, split))
        return [*base, dp_sgd, *([fleets.AverageOfWeights()] if self.weight_averaging else [])]

    def settle(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Mapping[str, str]:
        """The way to per-record gradients and its reason, by a fit of the first model without a step."""
        return fleets.settled(self.fit(replace(fitter, models=fitter.models[:1], steps=0), split, membership[:1]))

    def slowdown(self, network: nn.Module, settled: Mapping[str, str]) -> float:
        """Factor over `cost` by the network's layers and the way that was settled."""
        return slowdown(network, settled.get("per_record", self.per_record))

    def for_release(self) -> DPSGDDefense:
        """This defense with noise that withstands floating-point attacks."""
        return replace(self, secure_rng=True)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """Training with errors in the terms of a run, and warnings in its statement alone."""
        with fleets.in_terms_of_a_run():
            return super().fit(fitter, split, membership)

    def statement(self, fleet: Fleet) -> Statement:
        """The claim by the accountant of the fit, equal for all models."""
        return next(callback.statement for callback in fleet.callbacks if isinstance(callback, DPSGD))
