"""Dropout: every step trains a random part of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor, nn

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.data.split import Split
from palisade.fields import Fraction, remedy
from palisade.targets.fleet import Defense, Fitter

ACTIVATION_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid),
    *(nn.Softplus, nn.Hardswish, nn.Hardtanh),
)


@dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """Sets the output of every activation to zero with probability p while training (Srivastava et al. 2014).

    What single units know of single records gets lost, and with it some of the gap between members and others (Salem
    et al. 2019, section VI.A); nothing is guaranteed. The trained network is used whole.

    Args:
        rate: p, between 0 and 1.

    Raises:
        ValueError: if p is out of range, or the network has no activation.
    """

    rate: Annotated[Fraction, remedy("choose e.g. 0.5, or defense=none for 0")]

    @property
    def strength(self) -> float:
        """The probability p that an output is dropped."""
        return self.rate

    def network(self, network: nn.Module) -> nn.Module:
        """The network with dropout after every activation layer; names of parameters stay.

        Raises:
            ValueError: if it has no activation layer.
        """
        places = [
            (name, layer)
            for name, layer in network.named_modules(remove_duplicate=False)
            if isinstance(layer, ACTIVATION_LAYERS)
        ]
        if not places:
            raise ValueError(
                f"defense.rate={self.rate}: expected a network with activation layers, whose outputs are dropped;"
                " choose network=mlp, cnn or gpt, or another defense"
            )
        for number, (name, layer) in enumerate(places):
            network.set_submodule(name, DroppedOut(layer, self.rate, number))
        return network

    def callbacks(self, fitter: Fitter, split: Split) -> list[pl.Callback]:
        """The source of each step's masks."""
        return [Masks(fitter)]


class DroppedOut(nn.Dropout):
    """An activation whose output is dropped out; like the activation itself it has no parameters, so names stay.

    Args:
        activation: the layer.
        rate: the probability that a value is set to zero; the others grow by 1/(1 − rate).
        number: of the layer in its network, for random numbers of its own.
    """

    def __init__(self, activation: nn.Module, rate: float, number: int) -> None:
        super().__init__(rate)
        self.activation, self.number = activation, number
        self.start(None)

    def start(self, draws: Draws | None) -> None:
        """Begins a step, whose random numbers come from `draws`."""
        self.draws, self.calls = draws, 0

    def forward(self, x: Float[Tensor, "*models batch ..."]) -> Float[Tensor, "*models batch ..."]:
        """Activations; in training, each is 0 with probability p and otherwise 1/(1 − p) times as large.

        Raises:
            ValueError: in training outside a fit, which draws the masks.
        """
        y: Tensor = self.activation(x)
        if not self.training:
            return y
        if self.draws is None:
            raise ValueError(
                "defense=dropout: expected training in a Fitter, which fixes the units that are dropped; call eval()"
                " first"
            )
        shape = y.shape[1:] if self.draws.stacked else y.shape
        purpose = f"dropout {self.number}.{self.calls}"
        mask = self.draws(purpose, lambda rng: rng.random(shape, dtype=np.float32) >= self.p)
        self.calls += 1  # a layer may be called several times in a step
        return (y / (1 - self.p)).where(mask, 0)


class Masks(pl.Callback):
    """Gives the layers of every step its random numbers.

    Args:
        fitter: of the models that are trained together.
    """

    def __init__(self, fitter: Fitter) -> None:
        self.secret, self.models, self.device = fitter.secret, fitter.models, fitter.device

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Lightning's hook before a step: the random numbers of the step for every layer."""
        stacked = len(self.models) > 1
        step = trainer.global_step
        draws = Draws(secret=self.secret, models=self.models, step=step, stacked=stacked, device=self.device)
        self._start(pl_module, draws)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after training: takes the random numbers away."""
        self._start(pl_module, None)

    def _start(self, module: nn.Module, draws: Draws | None) -> None:
        for layer in module.modules():
            if isinstance(layer, DroppedOut):
                layer.start(draws)
