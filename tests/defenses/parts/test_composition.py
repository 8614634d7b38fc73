"""The joint privacy cost of several private trainings."""

from __future__ import annotations

import math

import pytest

from palisade.defenses.dp_sgd.accounting import Phase, accounted
from palisade.defenses.parts.composition import Trainings, composed
from palisade.targets.statement import Statement

TEST_DELTA = 1e-5


def claim(sigma: float, rate: float = 0.05, steps: int = 100, epsilon: float = 1.0) -> Statement:
    return Statement(
        guarantee=math.isfinite(epsilon),
        epsilon=epsilon,
        delta=TEST_DELTA,
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


def test_costs_what_all_steps_together_cost(both: Statement) -> None:
    spent = accounted((Phase(1.2, 0.05, 3 * 100), Phase(0.9, 0.02, 150)), TEST_DELTA)
    assert (both.epsilon, both.accountant, both.epsilon_rdp) == (spent.epsilon, "PRV", spent.epsilon_rdp)
    assert both.delta == TEST_DELTA and both.guarantee


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
