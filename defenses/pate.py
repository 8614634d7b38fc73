"""PATE: a student learns from the noisy votes of teachers that share no record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Annotated

import numpy as np
import pytorch_lightning as pl
from jaxtyping import Bool
from numpy import ndarray
from pydantic import Field

from palisade.data.split import Split
from palisade.defenses.dp_sgd.mechanism import STATED_LIBRARIES, check_delta
from palisade.defenses.dp_sgd.noise import NoiseSource
from palisade.defenses.parts.composition import check_batch
from palisade.defenses.parts.partition import Ensembles
from palisade.defenses.parts.reference import STUDENT_RESTRICTION, check_count, reference_as_pool
from palisade.defenses.parts.votes import UNANSWERED_LABEL, NoisyVotes, count_votes
from palisade.fields import Count, Fraction, Positive, remedy
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.statement import NOT_COVERED, Statement

TEACHER_STAGE = "teachers"


@dataclass(frozen=True, kw_only=True)
class PATE(Defense):
    """Parts the members among teachers, who vote with noise on reference records; the student that learns these
    labels alone is released (Papernot et al. 2018, "Scalable Private Learning with PATE").

    A record is in one teacher's hands and moves one vote of each query at most, which the noise hides: a guarantee,
    whatever network and optimizer do. It takes many records: each teacher has N/teachers of them, and noise that hides
    one vote must leave the majority standing.

    Args:
        teachers: how many there are, 2 or more; one that gets no records votes as it would before training.
        queries: Q, reference records that are voted on, chosen at random; None for all.
        noise_multiplier: see `NoisyVotes`.
        threshold: see `NoisyVotes`.
        threshold_noise_multiplier: see `NoisyVotes`.
        delta: δ below 1/N; N^−1.1 if None.

    Raises:
        ValueError: if a value is out of range.
    """

    not_on_documents = "teachers vote on one class a record"
    staged = True
    cost = 2.0
    teachers: Annotated[int, Field(ge=2, examples=[25])]
    queries: Count | None = None
    noise_multiplier: Annotated[Positive, Field(examples=[5.0])]
    threshold: float | None = None
    threshold_noise_multiplier: Positive | None = None
    delta: Annotated[Fraction, remedy("choose a value below 1/N, or null")] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.votes

    @property
    def roles(self) -> frozenset[str]:
        """The reference records that are voted on."""
        return frozenset({"reference"})

    @property
    def strength(self) -> float:
        """σ; the ε that it proves, for the number of queries at hand, is in the statement."""
        return self.noise_multiplier

    @property
    def votes(self) -> NoisyVotes:
        """The noisy vote by which teachers answer."""
        return NoisyVotes(
            noise_multiplier=self.noise_multiplier,
            threshold=self.threshold,
            threshold_noise_multiplier=self.threshold_noise_multiplier,
        )

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """Students, trained on the reference records that their teachers answered."""
        queries = check_count(split, "queries", self.queries)
        public = reference_as_pool(split)
        student = replace(fitter, size=queries)
        check_batch(student, of="the student", remedy="or raise split.reference or defense.queries")
        plan = Ensembles.of(fitter, TEACHER_STAGE, split, parts=self.teachers, seen_by=1)
        check_batch(plan.fitter, of="a teacher", remedy="or fewer defense.teachers")
        claim = self._claim(fitter, split, queries)
        teachers = plan.fitter.train(split, plan.membership(membership))

        answered = np.zeros((len(fitter.models), len(public.pool)), dtype=bool)
        labels = np.zeros((len(fitter.models), len(fitter.dataset.y), len(fitter.dataset.classes)), dtype=np.float32)
        for position, model in enumerate(fitter.models):
            asked = fitter.secret.numpy("queries", model).permutation(len(public.pool))[:queries]
            votes = count_votes(plan.of_model(position, teachers), fitter.dataset.x[public.pool[asked]])
            answers = self.votes.answers(votes, _noise(fitter), model)
            known = answers != UNANSWERED_LABEL
            if not known.any():
                raise ValueError(
                    f"defense.threshold={self.threshold}: expected one that some of {queries} queries reach; lower it"
                )
            answered[position, asked[known]] = True
            labels[position, public.pool[asked[known]], answers[known]] = 1

        fleet = student.train(public, answered, soft_labels=labels)
        fleet.callbacks = [*fleet.callbacks, Claim(claim)]
        fleet.stages = {TEACHER_STAGE: teachers}
        return fleet

    def statement(self, fleet: Fleet) -> Statement:
        """The claim that the votes prove, whatever the student makes of them."""
        return next(callback.statement for callback in fleet.callbacks if isinstance(callback, Claim))

    def _claim(self, fitter: Fitter, split: Split, queries: int) -> Statement:
        delta = fitter.schedule.delta if self.delta is None else self.delta
        check_delta(delta, fitter.size)
        epsilon = self.votes.epsilon(queries, delta)
        unit = "record" if split.persons is None else "person"
        return Statement(
            guarantee=True,
            epsilon=epsilon,
            delta=delta,
            accountant="RDP",
            epsilon_rdp=epsilon,
            neighboring=f"add/remove one {unit}",
            unit=unit,
            mechanism=f"{self.votes.text(queries)} of {self.teachers} teachers",
            public_size=fitter.size,
            noise_multiplier=self.noise_multiplier,
            randomness="given secret: no guarantee towards whoever knows it"
            if fitter.secret.user_chosen
            else "operating system",
            noise=_noise(fitter).description,
            not_covered=(*NOT_COVERED, STUDENT_RESTRICTION, "the teachers: only the student may be released"),
            versions={name: version(name) for name in STATED_LIBRARIES},
        )


class Claim(pl.Callback):
    """Companion of a fleet that holds its claim."""

    def __init__(self, statement: Statement) -> None:
        self.statement = statement


def _noise(fitter: Fitter) -> NoiseSource:
    return NoiseSource(secret=fitter.secret, secure=True)
