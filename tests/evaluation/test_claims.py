"""A claim fails by the one-run bound of model 0 alone, corrected for how many claims are tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.claims import is_refutable, level_of, violations
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import bound_text
from palisade.evaluation.report.run_report import page_of, summary
from palisade.evaluation.report.sections import evidence
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import one_run
from palisade.evaluation.table import corrections


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


def test_the_bound_that_is_shown_is_the_one_that_decides(make_violated: Callable[..., Result]) -> None:
    """Alone, the claim could be refuted; among forty it cannot, and no larger bound stands beside that sentence."""
    alone = one_run(500, 100, 100, 1e-5, 0.05)
    own = make_violated(strength=0.98 * alone)
    assert is_refutable(own, 0.05)
    many = [replace(make_violated(strength=0.98 * alone), run=f"run{k}", seed=k) for k in range(40)]
    comparison = Comparison(many)
    entries = evidence(comparison)
    assert not any(entry["refutable"] for entry in entries)
    shown, ceiling = (comparison.audit(many[0])[kind]["one_run"] for kind in ("bounds", "ceilings"))
    assert ceiling == one_run(500, 100, 100, 1e-5, 0.05 / 40) < 0.98 * alone < alone
    assert shown == pytest.approx(one_run(500, 100, 99, 1e-5, 0.05 / 40), abs=0.01) and shown < ceiling
    assert entries[0]["bounds"][0][1] == bound_text(comparison.audit(many[0]), "one_run")
    assert any("40 are tested together" in sentence for _, sentence in corrections(many))
    assert not any("together" in sentence for _, sentence in corrections(many[:1]))


def test_runs_of_several_sizes_are_not_all_described_as_the_first(make_result: Callable[..., Result]) -> None:
    runs = [make_result(models=16), make_result("l2", strength=0.1, models=8)]
    content = summary(Comparison(runs), "")
    assert content["models"] == "8–16" and summary(Comparison(runs[1:]), "")["models"] == "8"
    assert "8–16 models each" in page_of(Comparison(runs), content)["what"]
