"""The base of all defenses: each is one file that overrides only what it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from pytorch_lightning import Callback
from torch import Tensor, nn

from palisade.data.draws import Draws
from palisade.data.loaders import Batch, Sampler, Shuffling
from palisade.data.split import Split
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.statement import Statement


@dataclass(frozen=True, kw_only=True)
class Defense:
    """Trains as usual; a subclass overrides what it changes.

    Its YAML may hold a node `trainer` besides: the trainer's settings that it needs otherwise (epochs, batch_size,
    optimizer).
    """

    separable: ClassVar[bool] = True
    """A record's loss depends on that record alone (DP-SGD demands it)."""
    staged: ClassVar[bool] = False
    """`fit` trains several times. A defense of one stage can be the base of another, by its hooks alone."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks (of `conf/attack`) that know how to get around it: every evaluation runs them."""
        return ()

    @property
    def canaries(self) -> tuple[str, ...]:
        """Kinds of canaries that it protects least: an evaluation without them says so."""
        return ()

    @property
    def stackable(self) -> bool:
        """Fitness for training with a leading model axis."""
        return True

    @property
    def cost(self) -> float:
        """Rough time to train a model, as a multiple of plain training: for plans."""
        return 1.0

    @property
    def roles(self) -> frozenset[str]:
        """The split's roles it trains or tunes on; their records never serve as an attack's non-members."""
        return frozenset()

    @property
    def strength(self) -> float | None:
        """The value that a sweep varies, for axes and tables; None if there is nothing to vary."""
        return None

    def units(self, split: Split) -> int:
        """Size of the pool in units of the public size N: records, or persons where they are the unit."""
        return len(split.pool)

    def sampler(
        self, members: Sequence[Int64[ndarray, "_"]], models: Sequence[int], fitter: Fitter, split: Split
    ) -> Sampler:
        """The choice of a step's records from those that each model may train on."""
        return Shuffling(members, models, fitter.arithmetic, fitter.secret)

    def network(self, network: nn.Module) -> nn.Module:
        """Changes the architecture before training."""
        return network

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        """The inputs of a step in place of its records, such as changed copies of them."""
        return batch

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """The loss of every record, shape (*models, batch): cross-entropy with its class, or soft labels if given."""
        labels = batch.y.flatten() if batch.targets is None else batch.targets.flatten(end_dim=-2)
        losses = F.cross_entropy(logits.flatten(end_dim=-2), labels, reduction="none")
        return losses.view(batch.y.shape)

    def callbacks(self, fitter: Fitter, split: Split) -> list[Callback]:
        """Lightning callbacks of one fit.

        Args:
            fitter: of the models that are trained together; what callbacks draw at random comes from its secret.
            split: the roles of the records.
        """
        return []

    def for_release(self) -> Defense:
        """This defense with what a release needs besides."""
        return self

    def settle(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Mapping[str, str]:
        """Decisions for all models of a run, made once before the first; they may depend on the records.

        Raises:
            ValueError: if the defense cannot be used with this network or these records.
        """
        return {}

    def slowdown(self, network: nn.Module, settled: Mapping[str, str]) -> float:
        """By how much this network makes training slower than `cost` says: for plans."""
        return 1.0

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """Trains one model per row of `membership`; a defense of several stages calls `fitter.train` several times."""
        return fitter.train(split, membership)

    def statement(self, fleet: Fleet) -> Statement:
        """The privacy claim of a fleet."""
        return Statement.none()
