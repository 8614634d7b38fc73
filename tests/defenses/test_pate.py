"""PATE: one record moves one vote, the noise hides it, and the student sees nothing but the noisy labels."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from scipy import stats

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.noise import NoiseSource
from palisade.defenses.parts.partition import Ensembles
from palisade.defenses.parts.reference import STUDENT_RESTRICTION
from palisade.defenses.parts.votes import UNANSWERED_LABEL, NoisyVotes, count_votes
from palisade.defenses.pate import PATE

SMALL_SETTINGS = [
    *("data=digits", "network.hidden=[16]", "split.reference=0.15", "trainer.epochs=2"),
    *("defense=pate", "defense.teachers=4", "defense.noise_multiplier=1.5"),
]
NOISE_SOURCE = NoiseSource(secret=Secret.from_text("votes"), secure=True)


@dataclass(frozen=True, kw_only=True)
class Watched(PATE):
    """PATE that notes which records the student sees, and their labels."""

    taught: dict[int, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        if batch.targets is not None:
            pairs = zip(batch.records[batch.mask].tolist(), batch.targets[batch.mask].numpy(), strict=True)
            self.taught[draws.models[0]].update(pairs)
        return batch


@pytest.mark.parametrize(
    ("queries", "noise", "expected", "exact"),
    [(1000, 100, 1.914, 1.760), (1000, 40, 5.378, 4.983), (2000, 40, 8.079, 7.511)],
)
def test_epsilon(queries: int, noise: float, expected: float, exact: float) -> None:
    epsilon = NoisyVotes(noise_multiplier=noise).epsilon(queries, 1e-5)
    assert epsilon == pytest.approx(expected, rel=0.01)
    # One Gaussian of μ = √(2Q)/σ in closed form: never more than what is claimed.
    mu = math.sqrt(2 * queries) / noise
    delta = stats.norm.cdf(mu / 2 - exact / mu) - math.exp(exact) * stats.norm.cdf(-mu / 2 - exact / mu)
    assert delta == pytest.approx(1e-5, rel=0.01) and exact < epsilon


def test_every_check_of_the_threshold_is_paid_for() -> None:
    votes = NoisyVotes(noise_multiplier=40, threshold=200, threshold_noise_multiplier=150)
    orders = RDPAccountant.DEFAULT_ALPHAS
    rdp = [1000 * (order / 40**2 + order / (2 * 150**2)) for order in orders]
    bounds = [
        r + math.log1p(-1 / a) - (math.log(1e-5) + math.log(a)) / (a - 1) for a, r in zip(orders, rdp, strict=True)
    ]
    assert votes.epsilon(1000, 1e-5) == pytest.approx(min(bounds), rel=1e-6)
    assert votes.epsilon(1000, 1e-5) > NoisyVotes(noise_multiplier=40).epsilon(1000, 1e-5)


def test_one_record_moves_one_vote_of_each_query(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS), [0])
    plan = Ensembles.of(job.fitter, "teachers", job.split, parts=4, seen_by=1)
    x = job.dataset.x[job.split.reference]
    moved = 0.0
    teachers = plan.fitter.train(job.split, plan.membership(job.membership))
    before = count_votes(plan.of_model(0, teachers), x)
    assert (before.sum(axis=1) == 4).all()
    for position in np.flatnonzero(job.membership[0])[:3]:
        without = job.membership.copy()
        without[0, position] = False
        others = plan.fitter.train(job.split, plan.membership(without))
        changed = [
            not all(torch.equal(value, state[name]) for name, value in known.items())
            for known, state in zip(teachers.states, others.states, strict=True)
        ]
        assert changed == plan.sees[0, :, position].tolist() and sum(changed) == 1
        distances = np.linalg.norm(before - count_votes(plan.of_model(0, others), x), axis=1)
        assert distances.max() <= math.sqrt(2) + 1e-9
        moved = max(moved, distances.max())
    assert moved > 0


def test_noise_is_gaussian_of_the_size_of_the_setting() -> None:
    votes = NoisyVotes(noise_multiplier=3.0)
    first = [votes.answers(np.tile([4, 0], (20_000, 1)), NOISE_SOURCE, model) == 0 for model in range(2)]
    assert np.mean(first) == pytest.approx(stats.norm.cdf(4 / (3 * math.sqrt(2))), abs=0.01)
    assert (first[0] != first[1]).any()
    assert (votes.answers(np.tile([4, 0], (20_000, 1)), NOISE_SOURCE, 0) == np.where(first[0], 0, 1)).all()


def test_clear_majorities_win() -> None:
    majority = np.random.default_rng(0).integers(0, 5, size=101)
    assert (NoisyVotes(noise_multiplier=5).answers(1000 * np.eye(5)[majority], NOISE_SOURCE, 0) == majority).all()


def test_queries_on_which_few_agree_stay_unanswered() -> None:
    votes = NoisyVotes(noise_multiplier=0.01, threshold=60, threshold_noise_multiplier=10.0)
    answers = votes.answers(np.tile([70, 30], (20_000, 1)), NOISE_SOURCE, 0)
    assert set(answers) == {0, UNANSWERED_LABEL}
    assert (answers == 0).mean() == pytest.approx(stats.norm.cdf(1.0), abs=0.01)
    assert (votes.answers(np.tile([0, 20], (100, 1)), NOISE_SOURCE, 0) == UNANSWERED_LABEL).mean() > 0.95


def test_student_sees_answered_queries_with_their_noisy_labels(compose, fitting) -> None:
    watched = Watched(
        teachers=4, queries=100, noise_multiplier=0.5, threshold=3, threshold_noise_multiplier=0.5, delta=1e-4
    )
    job = fitting(compose(*SMALL_SETTINGS), [0, 1], defense=watched)
    fleet = job.fit()
    for position, model in enumerate(job.fitter.models):
        taught = watched.taught[model]
        assert 0 < len(taught) < 100 and set(taught) <= set(job.split.reference)
        assert all(sorted(label) == [0.0] * 9 + [1.0] for label in taught.values())
        teachers = [fleet.stages["teachers"].one(4 * position + j) for j in range(4)]
        votes = count_votes(teachers, job.dataset.x[list(taught)])
        agree = votes.argmax(axis=1) == np.array(list(taught.values())).argmax(axis=1)
        assert agree.mean() > 0.9
    claim = watched.statement(fleet)
    assert claim.mechanism == "100 noisy votes with σ = 0.5, each after a check with σ = 0.5, of 4 teachers"
    assert claim.epsilon == pytest.approx(watched.votes.epsilon(100, 1e-4))


def test_statement_says_what_was_voted_on(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS), [0])
    claim = job.defense.statement(job.fit())
    assert claim.delta == pytest.approx(job.fitter.size**-1.1) and claim.accountant == "RDP"
    assert claim.epsilon == NoisyVotes(noise_multiplier=1.5).epsilon(len(job.split.reference), claim.delta)
    assert (
        "per record (add/remove one record), RDP accountant, 269 noisy votes with σ = 1.5 of 4 teachers, randomness"
        " from the given secret" in claim.sentence()
    )
    assert STUDENT_RESTRICTION in claim.not_covered
    assert claim.noise == "ChaCha20 keystream, sums of four Gaussians (secure_rng)"


def test_persons_are_the_unit_where_data_name_them(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS), [0])
    split = replace(job.split, record_persons=np.arange(len(job.dataset.y)))
    fleet = job.defense.fit(job.fitter, split, job.membership)
    claim = job.defense.statement(fleet)
    assert (claim.unit, claim.neighboring) == ("person", "add/remove one person")


def test_a_teacher_without_records_still_votes(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS, "defense.teachers=2"), [0, 1], at_once=2)
    plan = Ensembles.of(job.fitter, "teachers", job.split, parts=2, seen_by=1)
    without = job.membership & ~plan.sees[:, 0]
    fleet = job.defense.fit(job.fitter, job.split, without)
    assert all(value.isfinite().all() for state in fleet.states for value in state.values())
    untrained = plan.fitter.initial_network(0).state_dict()
    taught = fleet.stages["teachers"].states
    assert all(torch.equal(value, taught[0][name]) for name, value in untrained.items())


def test_same_alone_and_in_a_stack(compose, fitting) -> None:
    settings = compose(*SMALL_SETTINGS)
    stacked, alone = fitting(settings, [0, 1], at_once=2).fit(), fitting(settings, [1]).fit()
    for name, value in alone.states[0].items():
        torch.testing.assert_close(value, stacked.states[1][name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teachers": 1}, r"teachers=1: expected"),
        ({"queries": 0}, r"queries=0: expected"),
        ({"noise_multiplier": 0}, r"noise_multiplier=0: expected"),
        ({"threshold": 5}, r"threshold=5: expected null with threshold_noise_multiplier=null; set both or none"),
        ({"delta": 1.5}, r"delta=1\.5: expected"),
    ],
)
def test_refuses_what_makes_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PATE(**{"teachers": 4, "noise_multiplier": 1.0, **values})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["defense.queries=500"],
            r"defense\.queries=500: expected at most 269, the reference records; choose fewer, or",
        ),
        (
            ["defense.queries=10"],
            r"batch_size=16: expected at most 10, the records of the student; choose fewer, or raise",
        ),
        (
            ["defense.teachers=60"],
            r"batch_size=16: expected at most 10, the records of a teacher; choose fewer, or fewer",
        ),
        (["defense.delta=0.1"], r"delta=0\.1: expected below 1/N"),
        (
            ["defense.threshold=1000", "defense.threshold_noise_multiplier=1"],
            r"defense\.threshold=1000.*: expected one that some of 269 queries reach; lower it",
        ),
    ],
)
def test_refuses_what_the_data_do_not_give(compose, fitting, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitting(compose(*SMALL_SETTINGS, *overrides), [0]).fit()
