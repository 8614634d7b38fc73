"""DP-SGD of this project's fleets: which defenses it can train, and the callback with what a run settled once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from numpy import ndarray
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from palisade.data.loaders import Poisson, fixed_width
from palisade.data.split import Split
from palisade.defenses.augmentation import Augmentation
from palisade.defenses.ccl import ConvexConcave
from palisade.defenses.dp_sgd.callback import DPSGD
from palisade.defenses.dp_sgd.choice import UNLESS_UNCHECKED, Choice, Chooser
from palisade.defenses.dp_sgd.mixing import BY_FIX
from palisade.defenses.dp_sgd.rules import READS_GRADIENTS, PrivacyWarning
from palisade.defenses.dropout import Dropout, DroppedOut
from palisade.defenses.hamp import HAMP
from palisade.defenses.label_smoothing import LabelSmoothing
from palisade.defenses.none import NoDefense
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.gpt import GPT
from palisade.targets.module import Target
from palisade.targets.networks import CNN, MLP
from palisade.targets.residual import ResNet9, ResNet18, WideResNet16
from palisade.targets.stacks import (
    Folded,
    StackedConvolution,
    StackedEmbedding,
    StackedLinear,
    StackedNorm,
    StackedStandardizedConvolution,
)
from palisade.targets.statement import Statement
from palisade.targets.transformer import Transformer

RECORDWISE_NETWORKS = (MLP, CNN, ResNet9, ResNet18, WideResNet16, Transformer, GPT)
RECORDWISE_DEFENSES = (NoDefense, LabelSmoothing, Dropout, Augmentation, HAMP, ConvexConcave)
RECORDWISE_LAYERS = (
    *(DroppedOut, Folded, StackedConvolution, StackedEmbedding, StackedLinear, StackedNorm),
    StackedStandardizedConvolution,
)
"""Layers that leave records alone in every step, as this project's suite shows."""


def check_base(base: Defense) -> None:
    """Raises ValueError, naming the base, if clipping would bound nothing or ε would not cover what the base does."""
    if _named(base) == "defense.base=dp_sgd":
        raise ValueError(
            "defense.base=dp_sgd: expected another defense than dp_sgd itself; choose another base, or none"
        )
    if not base.separable:
        raise ValueError(
            f"{_named(base)}: expected a defense whose loss keeps records apart, or clipping bounds nothing; choose"
            " another base, or none"
        )
    if base.staged:
        raise ValueError(
            f"{_named(base)}: expected a defense of one stage; make DP-SGD the base of its stages:"
            " defense@defense.base=dp_sgd"
        )
    if base.roles:
        raise ValueError(
            f"{_named(base)}: expected a defense that uses the pool alone, but it uses the"
            f" {' and '.join(sorted(base.roles))} records, which ε does not cover; choose another base, or none"
        )
    for hook in ("fit", "sampler", "units"):
        if getattr(type(base), hook) is not getattr(Defense, hook):
            raise ValueError(
                f"{_named(base)}: expected a defense without {hook}, which DP-SGD replaces; choose another base, or"
                " none"
            )


def check_copies(augmentations: int, base: Defense) -> None:
    """Raises ValueError if a record is to take part several times, and the base leaves all its copies alike."""
    if augmentations > 1 and type(base).inputs is Defense.inputs:
        raise ValueError(
            f"augmentations={augmentations}: expected 1 unless a base makes a record's copies different; add"
            " defense@defense.base=augmentation"
        )


def check_callbacks(base: Defense, callbacks: Sequence[Callback]) -> None:
    """Raises ValueError if one of the base's callbacks sees gradients before the noise is added."""
    for callback in callbacks:
        for hook in READS_GRADIENTS:
            if is_overridden(hook, callback, Callback):
                raise ValueError(
                    f"{_named(base)}: expected a defense that leaves gradients alone, but {hook} changes them; choose"
                    " another base, or none"
                )


def _named(base: Defense) -> str:
    path = type(base).__module__.removesuffix(".defense")  # a defense is one file of its name, or a package
    return f"defense.base={path.rpartition('.')[2]}"


def is_known_recordwise(module: pl.LightningModule, base: Defense) -> bool:
    """Ownership of network and loss, to the type: no subclass, and no forward put on an instance."""
    if (
        type(module) is not Target
        or type(base) not in RECORDWISE_DEFENSES
        or type(module.network) not in RECORDWISE_NETWORKS
    ):
        return False
    inner = list(module.network.modules())[1:]
    known = all(
        type(layer) in RECORDWISE_LAYERS or type(layer).__module__.startswith(("torch.nn.", "palisade.targets."))
        for layer in inner
    )
    return known and not any("forward" in vars(layer) for layer in module.modules())


FIXED_SHAPE_DEVICES = ("cuda", "mps")
SHARED_SETTINGS = (
    *("delta", "max_grad_norm", "clipping", "per_record", "secure_rng", "tuning_runs", "max_physical_batch"),
)
"""Settings that defense and callback have under one name."""


def sampler_of(
    fitter: Fitter,
    split: Split,
    members: Sequence[Int64[ndarray, "_"]],
    models: Sequence[int],
    *,
    records_per_person: int | None,
    augmentations: int,
) -> Poisson:
    """Poisson sampling of records, or of persons with a bounded number of records each, and of copies of them."""
    bound = records_per_person or 1
    return Poisson(
        *(members, models, fitter.schedule, fitter.secret),
        persons=persons_of(split, records_per_person),
        records_per_person=bound,
        augmentations=augmentations,
        width=step_width(fitter, bound * augmentations),
    )


class OfFleet(DPSGD):
    """The callback for models of this project.

    Args:
        fitter: of the models.
        base: whose loss they are trained on.
        epsilon: ε that the noise is calibrated for, unless this is a trial.
        width: rows of a step, which only one in a billion exceeds; it then goes through the network in parts.
        max_physical_batch: rows at most that are to go through it at once, if not so many.
        settings: of the callback.
    """

    def __init__(
        self,
        fitter: Fitter,
        base: Defense,
        *,
        epsilon: float,
        width: int | None,
        max_physical_batch: int | None,
        **settings: Any,
    ) -> None:
        amount: Any = {"epsilon": epsilon} if fitter.steps is None else {"noise_multiplier": 1.0}
        rows = width if max_physical_batch is None else max_physical_batch
        super().__init__(**amount, secret=fitter.secret, max_physical_batch=rows, **settings)
        self.settled, self.base, self.purpose = fitter.settled, base, fitter.purpose
        self.on_gpu = fitter.device.type != "cpu"

    @property
    def statement(self) -> Statement:
        """The whole claim of the fit, which has ended."""
        claim, mechanism = self._ending
        return replace(claim, privacy_curve=mechanism.privacy_curve())

    def teardown(self, trainer: pl.Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning's hook after a stage: lets go of what the fit worked with, which may lie on a device."""
        super().teardown(trainer, pl_module, stage)
        if self._fit is not None:
            self._ending = self._claim(), self._fit.step.mechanism
            self._fit = self._sampling = None

    def _choose(self, chooser: Chooser) -> Choice:
        if way := self.settled.get("per_record"):
            return Choice(way, self.settled["reason"])
        return super()._choose(chooser)

    def _first_look(self) -> int:
        """As many as go through the network at once; two show a coupling."""
        if self.max_physical_batch is None:
            return super()._first_look()
        assert self._sampling is not None
        return min(super()._first_look(), max(2, self.max_physical_batch // self._sampling.rows_per_unit))

    def _exempt(self, module: LightningModule) -> bool:
        return is_known_recordwise(module, self.base)

    def _ahead(self) -> bool:
        return self.on_gpu and super()._ahead()  # on the CPU the other cores have models of their own


@contextmanager
def in_terms_of_a_run() -> Iterator[None]:
    """Errors name the settings of a run; warnings stand once in the statement, not once a model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrivacyWarning)
            yield
    except ValueError as error:
        message = str(error).replace(UNLESS_UNCHECKED, "").replace("per_record=", "defense.per_record=")
        message = message.replace(BY_FIX, "")
        raise ValueError(message) from None  # commands print the innermost cause


def settled(fleet: Fleet) -> dict[str, str]:
    """The way to per-record gradients that the fit of a fleet chose, with its reason."""
    choice = next(callback.choice for callback in fleet.callbacks if isinstance(callback, DPSGD))
    return {"per_record": choice.way, "reason": choice.reason}


def persons_of(split: Split, records_per_person: int | None) -> Int64[ndarray, " records"] | None:
    """The person of every record where the claim holds for persons, None where it holds for records.

    Args:
        split: names the persons, if the data do.
        records_per_person: records of a person in a step, at most; None where the claim holds for records.

    Raises:
        ValueError: if the claim is to hold for persons and the data name none.
    """
    if records_per_person is None:
        return None
    if split.record_persons is None:
        raise ValueError(
            f"defense.records_per_person={records_per_person}: expected data that name a person for each record; set"
            " data.person, or leave it out"
        )
    return split.record_persons


def step_width(fitter: Fitter, rows_per_unit: int) -> int | None:
    """Rows of every step on a GPU, where other shapes take other kernels and memory; None on a CPU, for as many as were
    drawn."""
    if fitter.device.type not in FIXED_SHAPE_DEVICES:
        return None
    return fixed_width(fitter.recipe.batch_size) * rows_per_unit


class AverageOfWeights(Callback):
    """Exponential moving average of the weights after t updates, with decay min(0.9999, (1 + t)/(10 + t)).

    It is what the fit leaves behind. Lightning's own average keeps t on the device, and waits for it in every step.
    """

    def __init__(self) -> None:
        self.updates = 0
        self._average: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Lightning's hook after a batch: takes in the weights that its step left."""
        if trainer.global_step == self.updates:
            return
        weights = _weights(pl_module)
        if not self._average:
            self._average = [weight.clone() for weight in weights]
        else:
            decay = min(0.9999, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self._average, weights, 1 - decay)
        self.updates += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook after training: leaves the average in the module."""
        if self.updates:
            torch._foreach_copy_(_weights(pl_module), self._average)
        self._average = []


def _weights(module: LightningModule) -> list[Tensor]:
    tensors = (*module.parameters(), *module.buffers())
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
