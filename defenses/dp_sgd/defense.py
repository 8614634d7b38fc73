"""DP-SGD as a selectable defense: private training of every model of a fleet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from datamodules.samplers import Poisson
from datamodules.secret import Secret
from datamodules.split import Split
from defenses.base import Defense
from defenses.dp_sgd.callback import DPSGD
from defenses.dp_sgd.rules import PrivacyWarning, check_arguments, check_counts
from targets.fleet import Fitter, Fleet
from targets.statement import Statement


@dataclass(frozen=True, kw_only=True)
class DPSGDDefense(Defense):
    """Clips every record's gradient and adds noise, so that no record moves the weights by much (Abadi et al. 2016).

    The only defense here that proves something: an ε that bounds every attack, known or not.

    Args:
        epsilon: ε > 0 that the noise is calibrated for; inf clips without noise and guarantees nothing.
        delta: δ below 1/N; N^−1.1 if None.
        max_grad_norm: C > 0, the norm that gradients are clipped to.
        clipping: flat, per_layer, automatic or adaptive.
        weight_averaging: whether to release the exponential moving average of the weights (De et al. 2022,
            section 3.4), with decay min(0.9999, (1 + t)/(10 + t)).
        records_per_person: records of a person that take part in a step, at most, where the data name persons; ε then
            holds for a person with all records. None: ε holds for one record.
        secure_rng: whether noise is drawn against floating-point attacks; a release always is.

    Raises:
        ValueError: if a value is out of range.
    """

    epsilon: float
    delta: float | None = None
    max_grad_norm: float = 1.0
    clipping: str = "flat"
    weight_averaging: bool = False
    records_per_person: int | None = None
    secure_rng: bool = False

    def __post_init__(self) -> None:
        check_arguments(self.epsilon, self.delta, None, self.max_grad_norm, self.clipping)
        check_counts(records_per_person=self.records_per_person)

    @property
    def strength(self) -> float:
        return self.epsilon

    def units(self, split: Split) -> int:
        persons = self._persons(split)
        return len(split.pool) if persons is None else len(np.unique(persons[split.pool]))

    def sampler(
        self, members: Sequence[Int64[ndarray, "_"]], models: Sequence[int], fitter: Fitter, split: Split
    ) -> Poisson:
        return Poisson(
            members,
            models,
            fitter.arithmetic,
            fitter.secret,
            persons=self._persons(split),
            records_per_person=self.records_per_person or 1,
        )

    def callbacks(self, secret: Secret) -> list[Callback]:
        dp_sgd = DPSGD(
            epsilon=self.epsilon,
            delta=self.delta,
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
            secure_rng=self.secure_rng,
            secret=secret,
        )
        return [dp_sgd, WeightAveraging(avg_fn=_average)] if self.weight_averaging else [dp_sgd]

    def for_release(self) -> DPSGDDefense:
        return replace(self, secure_rng=True)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrivacyWarning)  # the statement carries them once, not once a model
            return super().fit(fitter, split, membership)

    def statement(self, fleet: Fleet) -> Statement:
        return next(callback.statement for callback in fleet.callbacks if isinstance(callback, DPSGD))

    def _persons(self, split: Split) -> Int64[ndarray, " records"] | None:
        if self.records_per_person is None:
            return None
        if split.record_persons is None:
            raise ValueError(
                f"defense.records_per_person={self.records_per_person} but the data name no persons; set data.person,"
                " or leave it out"
            )
        return split.record_persons


def _average(average: Tensor, weights: Tensor, updates: Tensor | int) -> Tensor:
    decay = min(0.9999, (1 + int(updates)) / (10 + int(updates)))
    return average.lerp(weights, 1 - decay)
