"""A claim fails by the one-run bound of model 0 alone, corrected for how many claims are tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.claims import is_refutable, level_of, violations
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import one_run


def with_correct(result: Result, correct: int) -> Result:
    return replace(result, audit={**result.audit, "correct": correct})


def stating(result: Result, epsilon: float) -> Result:
    return replace(result, statement=replace(result.statement, epsilon=epsilon))


def test_true_claims_stand(sweep: list[Result], canaries: list[Result]) -> None:
    assert violations([*sweep, *canaries]) == []
    assert violations([]) == []


@pytest.mark.parametrize("claims", [1, 2, 5])
def test_the_level_is_shared_by_all_claims(make_violated: Callable[..., Result], claims: int) -> None:
    result = make_violated()
    others = [make_violated(strength=64, run=f"another {i}") for i in range(claims - 1)]
    (violation,) = violations([*others, result])
    assert violation.level == level_of([*others, result]) == pytest.approx(0.05 / claims)
    assert violation.bound == one_run(500, 100, 99, 1e-5, 0.05 / claims)


def test_a_bound_that_holds_alone_may_not_hold_among_many(make_violated: Callable[..., Result]) -> None:
    result = make_violated()
    between = (one_run(500, 100, 99, 1e-5, 0.05) + one_run(500, 100, 99, 1e-5, 0.05 / 8)) / 2
    result = stating(result, between)
    assert violations([result])
    assert violations([result, *(make_violated(strength=64, run=f"another {i}") for i in range(7))]) == []


def test_the_claim_itself_is_no_violation(make_violated: Callable[..., Result]) -> None:
    bound = one_run(500, 100, 99, 1e-5, 0.05)
    assert violations([stating(make_violated(), bound)]) == []
    assert violations([stating(make_violated(), bound - 1e-6)])


def test_delta_is_that_of_the_claim(make_violated: Callable[..., Result]) -> None:
    result = make_violated()
    loose = replace(result, statement=replace(result.statement, delta=1e-3))
    assert violations([result])[0].bound > one_run(500, 100, 99, 1e-3, 0.05)
    assert [violation.bound for violation in violations([loose])] == [one_run(500, 100, 99, 1e-3, 0.05)]


def test_only_the_one_run_bound_fails(make_violated: Callable[..., Result]) -> None:
    result = with_correct(make_violated(), 50)
    assert result.audit["bounds"]["one_run"] > 2 and result.audit["bounds"]["gdp"] > 1  # as shown, for other counts
    assert violations([result]) == []


@pytest.mark.parametrize("why", ["no claim", "not about these attacks", "behind a guard", "no audit"])
def test_what_is_not_tested(make_violated: Callable[..., Result], why: str) -> None:
    result = make_violated()
    other = {
        "no claim": replace(result, statement=replace(result.statement, guarantee=False)),
        "not about these attacks": replace(result, bounded=False),
        "behind a guard": replace(result, guard="topk"),
        "no audit": replace(result, audit={}),
    }[why]
    assert violations([other]) == []
    assert level_of([result, other]) == pytest.approx(0.025 if why == "no audit" else 0.05)


def test_few_guesses_cannot_refute(make_violated: Callable[..., Result]) -> None:
    result = make_violated()
    assert is_refutable(result, 0.05) and not is_refutable(stating(result, 16), 0.05)
    few = replace(result, audit={**result.audit, "guesses": 4, "correct": 4})
    assert not is_refutable(few, 0.05)
