"""DP-SGD as a selectable defense: private training of every model of a fleet."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool
from numpy import ndarray
from pytorch_lightning import Callback

from datamodules.samplers import Poisson
from datamodules.secret import Secret
from datamodules.split import Split
from defenses.base import Defense
from defenses.dp_sgd.callback import DPSGD
from defenses.dp_sgd.rules import PrivacyWarning, check_arguments
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

    Raises:
        ValueError: if a value is out of range.
    """

    sampler: ClassVar[type[Poisson]] = Poisson

    epsilon: float
    delta: float | None = None
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_arguments(self.epsilon, self.delta, None, self.max_grad_norm)

    @property
    def strength(self) -> float:
        return self.epsilon

    def callbacks(self, secret: Secret) -> list[Callback]:
        return [DPSGD(epsilon=self.epsilon, delta=self.delta, max_grad_norm=self.max_grad_norm, secret=secret)]

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrivacyWarning)  # the statement carries them once, not once a model
            return super().fit(fitter, split, membership)

    def statement(self, fleet: Fleet) -> Statement:
        return next(callback.statement for callback in fleet.callbacks if isinstance(callback, DPSGD))
