"""DP-SGD of this project's fleets: the callback with what a run settled once, instead of once for every model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Int64
from numpy import ndarray
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from palisade.data.split import Split
from palisade.defenses.dp_sgd.bases import is_own
from palisade.defenses.dp_sgd.callback import DPSGD
from palisade.defenses.dp_sgd.choice import UNLESS_UNCHECKED, Choice, Chooser
from palisade.defenses.dp_sgd.mixing import BY_FIX
from palisade.defenses.dp_sgd.rules import PrivacyWarning
from palisade.targets.fleet import Defense, Fitter, Fleet

SHARED = ("delta", "max_grad_norm", "clipping", "per_record", "secure_rng", "tuning_runs")
"""Settings that defense and callback have under one name."""


class OfFleet(DPSGD):
    """The callback for models of this project.

    Args:
        fitter: of the models.
        base: whose loss they are trained on.
        epsilon: ε that the noise is calibrated for, unless no step will be taken.
        settings: of the callback.
    """

    def __init__(self, fitter: Fitter, base: Defense, *, epsilon: float, **settings: Any) -> None:
        amount: Any = {"noise_multiplier": 1.0} if fitter.dry else {"epsilon": epsilon}
        super().__init__(**amount, secret=fitter.secret, **settings)
        self.settled, self.base, self.purpose = fitter.settled, base, fitter.purpose

    def _choose(self, chooser: Chooser) -> Choice:
        if way := self.settled.get("per_record"):
            return Choice(way, self.settled["reason"])
        return super()._choose(chooser)

    def _exempt(self, module: LightningModule) -> bool:
        return is_own(module, self.base)

    def _ahead(self) -> bool:
        return False  # the other cores have models of their own


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
            f"defense.records_per_person={records_per_person} but the data name no persons; set data.person, or leave"
            " it out"
        )
    return split.record_persons


def average_of_weights() -> WeightAveraging:
    """Exponential moving average of the weights after t updates, with decay min(0.9999, (1 + t)/(10 + t))."""
    return WeightAveraging(avg_fn=_average)


def _average(average: Tensor, weights: Tensor, updates: Tensor | int) -> Tensor:
    decay = min(0.9999, (1 + int(updates)) / (10 + int(updates)))
    return average.lerp(weights, 1 - decay)
