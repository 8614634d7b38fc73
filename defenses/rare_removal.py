"""Removal of rare examples: what a public base finds too surprising is not trained on, whatever defense follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from pydantic import Field
from torch import nn

from palisade.data.loaders import Batch
from palisade.data.placement import sent
from palisade.data.split import Split
from palisade.defenses.parts.composition import Composed, check_epochs
from palisade.targets.base_model import has_base
from palisade.targets.fleet import Fitter, Fleet, records_at_once
from palisade.targets.network_maker import NetworkMaker
from palisade.targets.record_loss import record_losses
from palisade.targets.statement import Statement


@dataclass(frozen=True, kw_only=True)
class RareRemoval(Composed):
    """Drops members whose loss under the public base, in nats (a token), exceeds a public threshold; the base defense
    trains on the others.

    Records unlike all others are memorized first (Feldman 2020, "Does Learning Require Memorization?"). The decision
    looks at one record alone, by weights and a threshold that are public: with a record more or less, the records that
    are trained on change by one at most, and the claim of the base defense stays. Without such a claim, the next layer
    of records becomes the exposed one (Carlini et al. 2022, "The Privacy Onion Effect"): audits look at all records,
    removed ones too.

    Args:
        base: the defense that trains on the records that are left.
        threshold: nats above which a record is dropped, more than 0.

    Raises:
        ValueError: if the threshold is out of range, or training begins with no public weights.
    """

    threshold: Annotated[float, Field(gt=0, examples=[4.5])]

    @property
    def strength(self) -> float:
        """The threshold, in nats."""
        return self.threshold

    def network(self, network: nn.Module) -> nn.Module:
        """The architecture that the base defense makes of it."""
        return self.base.network(network)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """The base's training, on the members that are not rare.

        Raises:
            ValueError: if training begins with no public weights, or every record of a model is rare by them.
        """
        check_epochs(fitter)
        common = membership & ~self.rare(fitter, split)
        if not common.any(axis=1).all():
            raise ValueError(
                f"defense.threshold={self.threshold:g}: expected one that leaves every model records to train on,"
                " and all members of some have more nats a token under the base; choose a larger one"
            )
        return self.base.fit(fitter.base, split, common)

    def statement(self, fleet: Fleet) -> Statement:
        """The base's claim: what is dropped follows from each record alone."""
        return self.base.statement(fleet)

    def rare(self, fitter: Fitter, split: Split) -> Bool[ndarray, " pool"]:
        """The pool records that no model is trained on, as private as the records themselves."""
        make = fitter.make_network
        if not (isinstance(make, NetworkMaker) and has_base(make.settings)):
            raise ValueError(
                f"defense.threshold={self.threshold}: expected a public base by which records are rare; set"
                " network.base=<folder or run>"
            )
        return self._nats(fitter, split) > self.threshold

    def _nats(self, fitter: Fitter, split: Split) -> Float64[ndarray, " pool"]:
        """Loss of every pool record under the weights that training begins with."""
        network = fitter.initial_network(0).to(fitter.device).eval()
        x, y = fitter.dataset.x[split.pool], fitter.dataset.y[split.pool]
        classes, losses = len(fitter.dataset.classes), []
        at_once = records_at_once(x.shape, fitter.dataset.positional, classes)
        with torch.inference_mode():
            for start in range(0, len(x), at_once):
                part = slice(start, start + at_once)
                inputs, labels = sent(x[part], fitter.device), sent(y[part], fitter.device)
                every = torch.ones(len(inputs), dtype=torch.bool, device=fitter.device)
                batch = Batch(inputs, labels, every, every)
                losses.append(record_losses(network(inputs), batch).cpu().double().numpy())
        return np.concatenate(losses)
