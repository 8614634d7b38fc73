"""What several private trainings cost together."""

from __future__ import annotations

import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from defenses.composition import Trainings, composed, composed_epsilon, rdp_epsilon
from targets.statement import Statement

DELTA = 1e-5


def claim(sigma: float, rate: float = 0.05, steps: int = 100, epsilon: float = 1.0) -> Statement:
    return Statement(
        guarantee=math.isfinite(epsilon),
        epsilon=epsilon,
        delta=DELTA,
        accountant="PRV",
        sampling="Poisson",
        sampling_rate=rate,
        steps_planned=steps,
        steps_done=steps,
        noise_multiplier=sigma,
        max_grad_norm=1.0,
        randomness="operating system",
        privacy_curve=((0.0, 0.1),),
        warnings=("q is large",),
    )


def of(runs: int, statement: Statement, what: str = "sub-models") -> Trainings:
    return Trainings(what=what, runs=runs, statement=statement)


@pytest.fixture(scope="module")
def both() -> Statement:
    return composed([of(3, claim(1.2)), of(1, claim(0.9, 0.02, 150), "the student")])


def test_equals_opacus_stepping_through_everything(both: Statement) -> None:
    for accountant, epsilon in ((PRVAccountant(), both.epsilon), (RDPAccountant(), both.epsilon_rdp)):
        for _ in range(3 * 100):
            accountant.step(noise_multiplier=1.2, sample_rate=0.05)
        for _ in range(150):
            accountant.step(noise_multiplier=0.9, sample_rate=0.02)
        assert accountant.get_epsilon(DELTA) == pytest.approx(epsilon, rel=0.01)
    assert (both.accountant, both.delta) == ("PRV", DELTA)


def test_costs_more_than_each_and_less_than_the_sum(both: Statement) -> None:
    parts = [composed_epsilon([step], DELTA)[0] for step in ((1.2, 0.05, 300), (0.9, 0.02, 150))]
    assert both.epsilon is not None and max(parts) < both.epsilon < sum(parts)


def test_says_what_was_composed_and_drops_the_numbers_of_one_training(both: Statement) -> None:
    assert both.mechanism == (
        "3 × sub-models (σ = 1.2, q = 0.05, T = 100) and 1 × the student (σ = 0.9, q = 0.02, T = 150)"
    )
    assert f"PRV accountant, {both.mechanism}, Poisson sampling" in both.sentence()
    assert both.noise_multiplier is both.sampling_rate is both.steps_planned is both.steps_done is None
    assert both.privacy_curve == () and both.max_grad_norm == 1.0
    assert both.warnings == ("sub-models: q is large", "the student: q is large")


def test_a_training_without_noise_leaves_no_guarantee() -> None:
    for parts in ([of(3, claim(0.0, epsilon=math.inf)), of(1, claim(1.0))], [of(3, claim(1.0)), of(1, claim(0.0))]):
        together = composed(parts)
        assert not together.guarantee and together.epsilon == math.inf
    clipped = composed([of(3, claim(0.0, epsilon=math.inf)), of(1, claim(0.0, epsilon=math.inf))])
    assert clipped.sentence() == "no formal guarantee; gradients were clipped, without noise"


def test_a_training_that_proves_nothing_leaves_no_guarantee() -> None:
    assert composed([of(3, Statement.none()), of(1, claim(1.0))]) == Statement.none()
    assert composed([of(3, claim(1.0)), of(1, Statement.none())]) == Statement.none()


def test_large_epsilon_is_left_to_renyi_accounting() -> None:
    history = [(0.5, 0.1, 5000)]
    epsilon, accountant, rdp = composed_epsilon(history, DELTA)
    assert accountant == "RDP" and epsilon == rdp == rdp_epsilon(history, DELTA) > 100


def test_small_epsilon_is_never_negative() -> None:
    epsilon, _, rdp = composed_epsilon([(500.0, 0.001, 1)], DELTA)
    assert 0 <= epsilon <= rdp
