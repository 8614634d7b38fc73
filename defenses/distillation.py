"""Distillation for membership privacy: a student learns a teacher's answers to public records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy import ndarray
from pydantic import Field
from scipy.special import log_softmax, softmax
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.data.sequences import NO_TOKEN
from palisade.data.split import Split
from palisade.defenses.parts.composition import Composed, check_batch
from palisade.defenses.parts.reference import STUDENT_RESTRICTION, check_count, reference_as_pool
from palisade.fields import Count, Positive
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.statement import Statement

TEACHER_STAGE = "teacher"


@dataclass(frozen=True, kw_only=True)
class Distillation(Composed):
    """Trains a teacher on the members and a student, which alone is released, on the teacher's answers to reference
    records (DMP: Shejwalkar & Houmansadr 2021).

    The student never sees a member. What it knows of them has passed through answers about other records, and tells
    the less the surer the teacher is of these: hence those with the lowest entropy are selected. The classes of the
    reference records are not used. After a private teacher all of this is post-processing: its ε is the student's.

    Args:
        base: how the teacher is trained.
        temperature: T > 0 of the teacher's answers softmax(z/T), and of the student's while it learns them.
        records: how many reference records the student is trained on; None for all.

    Raises:
        ValueError: if a value is out of range.
    """

    temperature: Annotated[Positive, Field(examples=[4])]
    records: Count | None = None

    @property
    def roles(self) -> frozenset[str]:
        """Roles of the teacher's defense, and the reference records that the student learns from."""
        return self.base.roles | {"reference"}

    @property
    def cost(self) -> float:
        """The teacher's cost, and one plain training for the student."""
        return self.base.cost + 1

    @property
    def strength(self) -> float:
        """T: a higher one passes on more of the teacher. How many `records` are few depends on how many there are."""
        return self.temperature

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """T²·cross-entropy at temperature T; T² keeps the gradient's size (Hinton et al. 2015, section 2)."""
        return self.temperature**2 * super().loss(logits / self.temperature, batch, epoch)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """Students, trained on the reference records that their teachers are surest about."""
        count = check_count(split, "records", self.records)
        student = replace(fitter, size=count)
        check_batch(student, of="the student", remedy="or raise split.reference or defense.records")
        student_split = reference_as_pool(split)
        teacher = self.base.fit(fitter.base.stage(TEACHER_STAGE), split, membership)
        answers = teacher.predict(fitter.dataset.x[student_split.pool])
        labels = np.zeros((len(answers), len(fitter.dataset.y), *answers.shape[2:]), dtype=np.float32)
        labels[:, student_split.pool] = softmax(answers / self.temperature, axis=-1)
        is_token = fitter.dataset.y[student_split.pool] != NO_TOKEN
        fleet = student.train(student_split, surest(answers, count, is_token), soft_labels=labels)
        fleet.stages = {TEACHER_STAGE: teacher}
        return fleet

    def statement(self, fleet: Fleet) -> Statement:
        """The teacher's claim, which the student inherits; it leaves out the reference records."""
        claim = self.base.statement(fleet.stages[TEACHER_STAGE])
        return claim.leaving_out(STUDENT_RESTRICTION) if claim.guarantee else claim


def surest(
    answers: Float32[ndarray, "models records *positions classes"],
    count: int,
    is_token: Bool[ndarray, "records *positions"] | None = None,
) -> Bool[ndarray, "models records"]:
    """For each model the `count` records whose predicted probabilities have the lowest entropy.

    Args:
        answers: logits.
        count: up to the number of records.
        is_token: of documents, the positions that hold tokens, over which the entropy is averaged.
    """
    logarithms = log_softmax(answers.astype(np.float64), axis=-1)
    entropies = -(np.exp(logarithms) * logarithms).sum(axis=-1)
    if entropies.ndim > 2:
        assert is_token is not None
        entropies = entropies.sum(axis=-1, where=is_token) / is_token.sum(axis=-1)
    selected = np.zeros(entropies.shape, dtype=bool)
    np.put_along_axis(selected, entropies.argsort(axis=-1, kind="stable")[:, :count], True, axis=-1)
    return selected
