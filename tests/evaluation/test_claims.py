"""A claim fails by the one-run bound of model 0 alone, corrected for how many claims are tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.claims import is_refutable, level_of, violations
from palisade.evaluation.findings import Findings
from palisade.evaluation.statistics.epsilon import one_run


def with_correct(found: Findings, correct: int) -> Findings:
    return replace(found, audit={**found.audit, "correct": correct})


def stating(found: Findings, epsilon: float) -> Findings:
    return replace(found, statement=replace(found.statement, epsilon=epsilon))


def test_true_claims_stand(sweep: list[Findings], canaries: list[Findings]) -> None:
    assert violations([*sweep, *canaries]) == []
    assert violations([]) == []


@pytest.mark.parametrize("claims", [1, 2, 5])
def test_the_level_is_shared_by_all_claims(make_violated: Callable[..., Findings], claims: int) -> None:
    found = make_violated()
    others = [make_violated(strength=64, run=f"another {i}") for i in range(claims - 1)]
    (violation,) = violations([*others, found])
    assert violation.level == level_of([*others, found]) == pytest.approx(0.05 / claims)
    assert violation.bound == one_run(500, 100, 99, 1e-5, 0.05 / claims)


def test_a_bound_that_holds_alone_may_not_hold_among_many(make_violated: Callable[..., Findings]) -> None:
    found = make_violated()
    between = (one_run(500, 100, 99, 1e-5, 0.05) + one_run(500, 100, 99, 1e-5, 0.05 / 8)) / 2
    found = stating(found, between)
    assert violations([found])
    assert violations([found, *(make_violated(strength=64, run=f"another {i}") for i in range(7))]) == []


def test_the_claim_itself_is_no_violation(make_violated: Callable[..., Findings]) -> None:
    bound = one_run(500, 100, 99, 1e-5, 0.05)
    assert violations([stating(make_violated(), bound)]) == []
    assert violations([stating(make_violated(), bound - 1e-6)])


def test_delta_is_that_of_the_claim(make_violated: Callable[..., Findings]) -> None:
    found = make_violated()
    loose = replace(found, statement=replace(found.statement, delta=1e-3))
    assert violations([found])[0].bound > one_run(500, 100, 99, 1e-3, 0.05)
    assert [violation.bound for violation in violations([loose])] == [one_run(500, 100, 99, 1e-3, 0.05)]


def test_only_the_one_run_bound_fails(make_violated: Callable[..., Findings]) -> None:
    found = with_correct(make_violated(), 50)
    assert found.audit["bounds"]["one_run"] > 2 and found.audit["bounds"]["gdp"] > 1  # as shown, for other counts
    assert violations([found]) == []


@pytest.mark.parametrize("why", ["no claim", "not about these attacks", "behind a guard", "no audit"])
def test_what_is_not_tested(make_violated: Callable[..., Findings], why: str) -> None:
    found = make_violated()
    other = {
        "no claim": replace(found, statement=replace(found.statement, guarantee=False)),
        "not about these attacks": replace(found, bounded=False),
        "behind a guard": replace(found, guard="topk"),
        "no audit": replace(found, audit={}),
    }[why]
    assert violations([other]) == []
    assert level_of([found, other]) == pytest.approx(0.025 if why == "no audit" else 0.05)


def test_few_guesses_cannot_refute(make_violated: Callable[..., Findings]) -> None:
    found = make_violated()
    assert is_refutable(found, 0.05) and not is_refutable(stating(found, 16), 0.05)
    few = replace(found, audit={**found.audit, "guesses": 4, "correct": 4})
    assert not is_refutable(few, 0.05)
