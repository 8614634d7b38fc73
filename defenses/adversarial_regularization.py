"""Adversarial regularization: a model is trained against an attacker that learns beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytorch_lightning as pl
from pydantic import Field

from palisade.data.split import Split
from palisade.defenses.parts.adversary import Adversary
from palisade.fields import CountFromZero, Positive, remedy
from palisade.targets.fleet import Defense, Fitter


@dataclass(frozen=True, kw_only=True)
class AdversarialRegularization(Defense):
    """Minimizes cross-entropy + λ·(h(f(x), y) − ½), h being an attacker's belief in membership (Nasr et al. 2018).

    h learns to separate members from reference records. Predictions about members thus come to look like others
    to this attacker, not to every one: thresholds on the loss see more than it does (Song & Mittal 2021).

    Args:
        weight: λ > 0; a larger one protects more, until the model collapses.
        warm_up: epochs without h at first, at most half of all; then h learns for as many epochs alone.

    Raises:
        ValueError: if a value is out of range; in training, if the model collapses or h is dead.
    """

    not_on_documents = "its attacker looks at one answer a record"
    separable, cost = False, 4.0
    roles = frozenset({"reference"})
    attacks = ("modified_entropy", "lira")
    weight: Annotated[Positive, remedy("choose e.g. 3, or defense=none for 0")]
    warm_up: Annotated[CountFromZero, Field(examples=[5])]

    @property
    def strength(self) -> float:
        """The weight λ of the attacker's belief in the loss."""
        return self.weight

    def callbacks(self, fitter: Fitter, split: Split) -> list[pl.Callback]:
        """The attacker that learns beside the models, on members and reference records."""
        split.require("reference", who="defense=adversarial_regularization")
        return [Adversary(self.weight, self.warm_up, fitter, split)]
