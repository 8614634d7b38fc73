"""A distilled student learns a teacher's answers to reference records, and sees no member."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.defenses.distillation import Distillation, surest
from palisade.defenses.none import NoDefense
from palisade.defenses.parts.reference import STUDENT_RESTRICTION, reference_as_pool

SMALL_SETTINGS = [
    "data=digits",
    "network.hidden=[16]",
    "split.reference=0.15",
    "trainer.epochs=2",
    "defense=distillation",
]


@dataclass(frozen=True, kw_only=True)
class Watched(Distillation):
    """Distillation that notes which records the student sees, and their soft labels."""

    taught: dict[int, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        assert batch.targets is not None and not draws.stacked
        pairs = zip(batch.records[batch.mask].tolist(), batch.targets[batch.mask].numpy(), strict=True)
        self.taught[draws.models[0]].update(pairs)
        return batch


def test_student_sees_the_surest_reference_records_with_the_teacher_s_answers(compose, fitting) -> None:
    watched = Watched(base=NoDefense(), temperature=3.0, records=100)
    job = fitting(compose(*SMALL_SETTINGS), [0, 1], defense=watched)
    fleet = job.fit()
    assert len(fleet) == 2 and len(fleet.stages["teacher"]) == 2
    for position, model in enumerate(job.fitter.models):
        answers = fleet.stages["teacher"].predict(job.dataset.x[job.split.reference])[position]
        entropies = entropy(softmax(answers, axis=-1), axis=-1)
        assert set(watched.taught[model]) == set(job.split.reference[np.argsort(entropies)[:100]])
        assert not set(watched.taught[model]) & set(job.split.pool)
        for answer, record in zip(answers, job.split.reference, strict=True):
            if record in watched.taught[model]:
                assert watched.taught[model][record] == pytest.approx(softmax(answer / 3.0), abs=1e-5)


def test_loss_is_cross_entropy_at_the_temperature() -> None:
    logits, y = torch.tensor([[[2.0, 0.0, -1.0]], [[0.5, 0.5, 3.0]]]), torch.zeros(2, 1, dtype=torch.int64)
    targets = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]])
    batch = Batch(torch.zeros(2, 1, 4), y, y == 0, y, targets)
    losses = Distillation(base=NoDefense(), temperature=4.0).loss(logits, batch, 0)
    p = softmax(logits.numpy() / 4.0, axis=-1)
    assert losses.numpy() == pytest.approx(-16 * (targets.numpy() * np.log(p)).sum(axis=-1), rel=1e-5)


def test_surest_answers_have_the_lowest_entropy() -> None:
    answers = np.random.default_rng(0).normal(scale=3, size=(2, 50, 4)).astype(np.float32)
    selected = surest(answers, 20)
    assert (selected.sum(axis=1) == 20).all()
    for chosen, entropies in zip(selected, entropy(softmax(answers, axis=-1), axis=-1), strict=True):
        assert entropies[chosen].max() <= entropies[~chosen].min() + 1e-6
    assert surest(answers, 50).all()


def test_certain_answers_have_no_entropy() -> None:
    answers = np.array([[[1000.0, 0.0], [0.0, 0.0]]], dtype=np.float32)
    assert surest(answers, 1).tolist() == [[True, False]]


def test_reference_records_that_may_be_members_are_refused(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS), [0])
    with pytest.raises(ValueError, match="records have two roles; roles must be disjoint"):
        replace(job.split, reference=job.split.pool[:50])
    planted = replace(job.split)
    object.__setattr__(planted, "reference", np.sort([*job.split.reference, *job.split.pool[:3]]))
    with pytest.raises(ValueError, match=r"split\.reference: expected no record of the pool, but 3 are in both"):
        job.defense.fit(job.fitter, planted, job.membership)


def test_student_has_no_members_among_its_roles(compose, fitting) -> None:
    split = fitting(compose(*SMALL_SETTINGS, "canary=clean", "canary.count=20"), [0]).split
    public = reference_as_pool(split)
    assert (public.pool == split.reference).all() and not len(public.reference) and not len(public.canaries)


def test_statement_of_a_private_teacher_is_the_student_s(compose, fitting, known_noise) -> None:
    private = ["defense@defense.base=dp_sgd", "defense.base.trainer.epochs=1"]
    job = fitting(compose(*SMALL_SETTINGS, *private), [0, 1], at_once=2)
    fleet = job.fit()
    claim, teacher = job.defense.statement(fleet), job.defense.base.statement(fleet.stages["teacher"])
    assert claim.guarantee and claim == teacher.leaving_out(STUDENT_RESTRICTION)
    assert claim.public_size == job.fitter.size


def test_no_guarantee_without_a_private_teacher(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS), [0])
    assert job.defense.statement(job.fit()).sentence() == "no formal guarantee"


def test_strength_and_roles() -> None:
    distillation = Distillation(base=NoDefense(), temperature=2.5)
    assert (distillation.strength, distillation.roles) == (2.5, {"reference"})


def test_release_draws_noise_as_its_base_does(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS, "defense@defense.base=dp_sgd"), [0])
    assert not job.defense.base.secure_rng and job.defense.for_release().base.secure_rng


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0}, r"temperature=0: expected"),
        ({"temperature": float("inf")}, r"temperature=inf: expected"),
        ({"records": 0}, r"records=0: expected"),
        ({"base": "none"}, r"base=none: expected"),
    ],
)
def test_refuses_what_makes_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(**{"base": NoDefense(), "temperature": 1.0, **values})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "defense.records=500",
            r"defense\.records=500: expected at most 269, the reference records; choose fewer, or raise",
        ),
        (
            "trainer.batch_size=300",
            r"batch_size=300: expected at most 269, the records of the student; choose fewer, or",
        ),
    ],
)
def test_reference_records_must_be_enough(compose, fitting, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitting(compose(*SMALL_SETTINGS, override), [0]).fit()
