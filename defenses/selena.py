"""SELENA: a student learns what models that have not seen a record say about it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from pydantic import Field
from torch import nn

from palisade.data.loaders import Batch
from palisade.data.split import Split
from palisade.defenses.dp_sgd.rules import PrivacyWarning
from palisade.defenses.parts.composition import Composed, Trainings, check_batch, check_epochs, composed
from palisade.defenses.parts.partition import Ensembles, soft_labels
from palisade.fields import Count
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.statement import Statement

SUB_MODELS = "sub_models"


@dataclass(frozen=True, kw_only=True)
class Selena(Composed):
    """Trains K sub-models, each record being left out of L; their answers to what they have not seen are the labels of
    a student, which alone is released (Tang et al. 2022: Split-AI, then self-distillation).

    So members are answered as non-members are, by models that never saw them. No record is hidden that others give
    away: near-duplicates of a record are in its place where it is left out (Aerni et al. 2024). Nothing is
    guaranteed unless the base is private: a record then takes part in K − L + 1 private trainings.

    Args:
        base: how sub-models and student are trained, a defense of one stage. If that is DP-SGD, its ε is that of each
            training; the statement has the ε of all.
        sub_models: K ≥ 2; published: 25.
        left_out: L, 1 to K − 1; published: 10. With larger L more models answer for a record, and each has learned
            from fewer: (K − L)/K of all.

    Raises:
        ValueError: if a count is out of range, or the base trains in stages or ignores soft labels.
    """

    not_on_documents = "its sub-models label each record by one answer"
    canaries = ("near_duplicate",)
    sub_models: Annotated[int, Field(ge=2, examples=[25])]
    left_out: Annotated[Count, Field(examples=[10])]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base.staged:
            raise ValueError(f"{self._named}: expected a defense of one stage for selena; choose another base")
        if not learns_soft_labels(self.base):
            raise ValueError(
                f"{self._named}: expected one that learns soft labels, as selena's student must; choose another base"
            )
        if self.left_out >= self.sub_models:
            raise ValueError(
                f"left_out={self.left_out}: expected fewer than the sub-models, or none learns from a record; choose"
                f" 1 to {self.sub_models - 1}"
            )

    @property
    def _named(self) -> str:
        return f"base={type(self.base).__module__.rpartition('.')[2]}"  # a defense is one file of its name

    @property
    def cost(self) -> float:
        """The base's cost for the K − L sub-models that each record is in, and for the student."""
        return (self.sub_models - self.left_out + 1) * self.base.cost

    @property
    def strength(self) -> float:
        """L at a fixed K: it sets what share of the records a sub-model learns from, which is what protection costs."""
        return self.left_out

    def network(self, network: nn.Module) -> nn.Module:
        """The architecture that the base makes of it."""
        return self.base.network(network)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """Students, trained on the members with the labels that unseeing sub-models give them."""
        check_epochs(fitter)
        plan = Ensembles.of(
            fitter.base, SUB_MODELS, split, parts=self.sub_models, seen_by=self.sub_models - self.left_out
        )
        check_batch(plan.fitter, of="a sub-model", remedy="or lower defense.left_out")
        sub_models = self.base.fit(plan.fitter, split, plan.membership(membership))
        x, y = fitter.dataset.x, fitter.dataset.y
        labels = np.zeros((len(membership), len(y), len(fitter.dataset.classes)), dtype=np.float32)
        for position, row in enumerate(membership):
            members = split.pool[row]
            trained = plan.of_model(position, sub_models)
            labels[position, members] = soft_labels(trained, plan.sees[position][:, row], x, members)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrivacyWarning)  # the statement carries them
            student = fitter.base.train(split, membership, soft_labels=labels)
        student.stages = {SUB_MODELS: sub_models}
        return student

    def statement(self, fleet: Fleet) -> Statement:
        """The claim of all trainings that a record is in: K − L sub-models and the student."""
        return composed(
            [
                Trainings(
                    what="sub-models",
                    runs=self.sub_models - self.left_out,
                    statement=self.base.statement(fleet.stages[SUB_MODELS]),
                ),
                Trainings(what="the student", runs=1, statement=self.base.statement(fleet)),
            ]
        )


def learns_soft_labels(defense: Defense) -> bool:
    """Dependence of a defense's loss on soft labels where there are any, rather than on classes alone."""
    one = torch.ones(1, dtype=torch.int64)
    batch = Batch(x=torch.zeros(1, 1), y=one, mask=one.bool(), records=one)
    logits, sure, unsure = torch.tensor([[1.0, -1.0, 0.5]]), torch.eye(3)[:1], torch.full((1, 3), 1 / 3)
    losses = [defense.loss(logits, batch._replace(targets=labels), 0) for labels in (sure, unsure)]
    return not torch.equal(*losses)
