"""The mechanism that a claim is about, and the claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from palisade.defenses.dp_sgd.accounting import (
    Accounted,
    History,
    Phase,
    accounted,
    calibrate,
    privacy_curve,
    rdp_epsilon,
)
from palisade.defenses.dp_sgd.sampling import Sampling
from palisade.targets.statement import NOT_COVERED, Statement

STATED_LIBRARIES = ("opacus", "pytorch-lightning", "torch")
LOGGED_VALUES = "logged loss, clipped fraction and gradient norms: they are computed from the private records"
END_OF_TRAINING = (
    "a training that ended early or with an error, or changed its way of computing gradients: that it did may depend on"
    " the records"
)
DERIVED_RECORDS = (
    "records that the data set makes of other records (pairs, windows, partners) or repeats under another index: no"
    " check finds all of these"
)
MISSED_COUPLINGS = (
    "couplings of records that seldom show: one that shows in 1 % of batches is missed with a chance of {:.0%}"
)
USER_SECRET = (
    "given secret: no guarantee towards whoever knows it, nor, where it is used for other records too, towards anyone"
    " who holds two models made with it"
)
STATED_ENGINE = "per-record clipping; norms, factors, sums and noise in single precision at least"
UNCHECKED_RECORDS = "nothing has shown that records are not coupled (unchecked=True)"


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """The numbers that a claim rests on; a resumed training must have the same.

    Args:
        noise_multiplier: σ ≥ 0.
        max_grad_norm: C > 0; with adaptive clipping that of the first step.
        clipping: flat, per_layer, automatic or adaptive.
        sampling_rate: q, 0 to 1.
        public_size: N ≥ 1, in units.
        unit: record or group.
        rows_per_unit: rows that a unit brings into a step.
        augmentations: how many of these are the same record.
        steps: T ≥ 1, planned.
        delta: δ, 0 to below 1/N.
    """

    noise_multiplier: float
    max_grad_norm: float
    clipping: str
    sampling_rate: float
    public_size: int
    unit: str
    rows_per_unit: int
    augmentations: int
    steps: int
    delta: float

    @property
    def expected_batch_size(self) -> float:
        """q·N, what every step is divided by."""
        return self.sampling_rate * self.public_size

    def history(self, steps: int | None = None, earlier: History = ()) -> History:
        """All planned steps, or so many of them, and those of trainings before."""
        return (*earlier, Phase(self.noise_multiplier, self.sampling_rate, self.steps if steps is None else steps))

    def accounted(self, earlier: History = ()) -> Accounted:
        """ε of all planned steps, and of trainings before."""
        return accounted(self.history(earlier=earlier), self.delta)

    def spent(self, steps: int, earlier: History = ()) -> float:
        """ε after so many steps: by Rényi accounting, which is quick, and never more than all of them cost."""
        return min(rdp_epsilon(self.history(steps, earlier), self.delta), self.accounted(earlier).epsilon)

    def privacy_curve(self, earlier: History = ()) -> tuple[tuple[float, float], ...]:
        """(ε, δ) pairs, an upper bound on δ(ε) of the planned steps."""
        return privacy_curve(self.history(earlier=earlier))

    def claim(
        self,
        *,
        steps_done: int,
        user_secret: bool,
        noise: str,
        tuning_runs: int,
        warnings: tuple[str, ...],
        missed: float | None,
        unchecked: bool,
        earlier: History,
    ) -> Statement:
        """The claim without the privacy curve, which takes a second to compute.

        Args:
            steps_done: of the planned ones.
            user_secret: whether a person chose the secret.
            noise: how it is made.
            tuning_runs: trainings on the same records that the hyperparameters were chosen by.
            warnings: what a reader should know.
            missed: chance of missing a coupling that shows in 1 % of batches; None where nothing is left to chance.
            unchecked: whether nothing was to show that records are not coupled.
            earlier: trainings before this one that the claim has to cover too.
        """
        planned = self.accounted(earlier)
        values = asdict(self)
        rows, unit = values.pop("rows_per_unit"), values.pop("unit")
        seldom = () if missed is None else (MISSED_COUPLINGS.format(missed),)
        together = f"{len(earlier) + 1} trainings with this callback, added up" if earlier else None
        return Statement(
            **{"steps_planned" if name == "steps" else name: value for name, value in values.items()},
            guarantee=math.isfinite(planned.epsilon) and not unchecked,
            withdrawn=UNCHECKED_RECORDS if unchecked else None,
            epsilon=planned.epsilon,
            accountant=planned.accountant,
            epsilon_rdp=planned.epsilon_rdp,
            epsilon_spent=self.spent(steps_done, earlier),
            neighboring=f"add/remove one {unit}",
            unit=unit,
            records_per_unit=rows // self.augmentations,
            mechanism=together,
            sampling="Poisson",
            steps_done=steps_done,
            engine=STATED_ENGINE,
            randomness=USER_SECRET if user_secret else "operating system",
            noise=noise,
            tuning_runs=tuning_runs,
            not_covered=(*NOT_COVERED, LOGGED_VALUES, END_OF_TRAINING, DERIVED_RECORDS, *seldom),
            warnings=warnings,
            versions={name: version(name) for name in STATED_LIBRARIES},
        )


def check_delta(delta: float, public_size: int, records: int | None = None) -> None:
    """Raises ValueError if δ allows publishing one of the records, of which there may be more than the public N."""
    size = max(public_size, records or 0)
    if delta >= 1 / size:
        whose = "1/N" if size == public_size else "1/n for the n records there are"
        raise ValueError(
            f"delta={delta:.3g}: expected below {whose}={1 / size:.3g}, since a larger one allows publishing a record"
            f" outright; choose e.g. {size**-1.1:.2g}"
        )


def plan(
    sampling: Sampling,
    *,
    steps: float,
    models: Sequence[int] | None,
    epsilon: float | None,
    delta: float | None,
    noise_multiplier: float | None,
    max_grad_norm: float,
    clipping: str,
) -> Mechanism:
    """The mechanism of a fit, before its first step.

    Args:
        sampling: how its loader draws.
        steps: what the trainer plans; the sampler's T, which is not less, takes precedence.
        models: the models' numbers, where they are known beforehand.
        epsilon: what σ is calibrated for if `noise_multiplier` is None.
        delta: δ; N^−1.1 if None.
        noise_multiplier: σ.
        max_grad_norm: C.
        clipping: how gradients are clipped.

    Raises:
        ValueError: if the steps have no end, or go beyond the sampler's, or if δ allows to publish a record.
    """
    if models is not None and sampling.models not in (None, tuple(models)):
        raise ValueError(
            f"models={list(models)}: expected the sampler's {list(sampling.models or ())}; pass the same to both"
        )
    if math.isinf(steps):
        raise ValueError(
            "max_epochs=-1: expected a number of epochs or of steps to account for; set max_epochs or max_steps"
        )
    if sampling.steps is not None and steps > sampling.steps:
        raise ValueError(f"max_steps={steps}: expected at most the sampler's T={sampling.steps}; choose fewer")
    planned = int(sampling.steps or steps)
    delta = float(sampling.public_size**-1.1) if delta is None else delta
    check_delta(delta, sampling.public_size, sampling.records_there)
    if noise_multiplier is None:
        assert epsilon is not None
        noise_multiplier = calibrate(epsilon, delta, sampling.rate, planned)
    return Mechanism(
        noise_multiplier=float(noise_multiplier),
        max_grad_norm=float(max_grad_norm),
        clipping=clipping,
        sampling_rate=sampling.rate,
        public_size=sampling.public_size,
        unit=sampling.unit,
        rows_per_unit=sampling.rows_per_unit,
        augmentations=sampling.augmentations,
        steps=planned,
        delta=delta,
    )
