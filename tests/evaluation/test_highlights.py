"""Highlights of an evaluation: never a run that only masks what it leaks, unless the page says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.report.verdict import verdicts
from palisade.evaluation.result import Result


@pytest.fixture
def bare(make_result: Callable[..., Result]) -> Result:
    return make_result(separation=1.2)


@pytest.fixture
def masking(bare: Result, make_guarded: Callable[..., Result]) -> Result:
    """Behind a guard that leaves label-only attacks as they are."""
    return make_guarded(bare, "memguard", None, 0.75)


def test_a_mask_is_passed_over_and_the_verdict_says_so(
    make_result: Callable[..., Result], bare: Result, masking: Result
) -> None:
    l2 = make_result("l2", strength=0.1, separation=0.9)
    results = [bare, masking, l2]
    assert Comparison(results).highlights == [("undefended", bare, ""), ("protected", l2, "")]
    undefended, best = verdicts(Comparison(results))
    assert best["sentence"].endswith("what looks like less leakage is only masked: none + memguard.")
    assert "masked" not in undefended["sentence"]
    assert Comparison(results).masked_but_lower(l2) == [masking]


def test_a_mask_that_finds_more_than_the_best_is_not_mentioned(
    make_result: Callable[..., Result], bare: Result, masking: Result
) -> None:
    results = [bare, masking, make_result("l2", strength=0.1, separation=0.1)]
    assert "masked" not in verdicts(Comparison(results))[1]["sentence"]


def test_what_leaks_as_much_as_without_a_defense_is_not_called_protected(
    make_result: Callable[..., Result], bare: Result
) -> None:
    worse = make_result("l2", strength=0.1, separation=2.0)
    assert Comparison([bare, worse]).highlights == [("undefended", bare, ""), ("protected", worse, "no_less")]
    heading = verdicts(Comparison([bare, worse]))[1]["heading"]
    assert heading == "Best protected, though no less was found than undefended: l2 0.1"


def test_a_mask_alone_is_called_one(bare: Result, masking: Result) -> None:
    results = [bare, masking]
    undefended, best = verdicts(Comparison(results))
    assert undefended["heading"] == "Undefended"
    assert best["heading"] == "Best protected, though only masked: none + memguard"
    assert "Masked, not protected: Behind memguard the best attack on scores, lira," in best["sentence"]


def test_few_runs_are_all_shown(sweep: list[Result]) -> None:
    comparison = Comparison(sweep)
    assert not comparison.are_many and comparison.readable == comparison.series


def test_of_many_runs_each_line_keeps_its_best_affordable_one(many: list[Result]) -> None:
    comparison = Comparison(many)
    shown = {line.name: line.runs for line in comparison.readable}
    assert comparison.are_many and list(shown) == [line.name for line in comparison.series]
    assert all(len(runs) == 1 for runs in shown.values())
    # The best accuracy is 61.7 %: at ε = 16 and below DP-SGD is not within five points of it.
    assert [shown[name][0].strength for name in ("dp_sgd", "l2", "selena", "distillation")] == [64, 0.01, 25, 1.0]
    assert shown["pate"][0].strength == 20  # none is near, so the most accurate one


def test_a_line_without_attacks_stays(many: list[Result], make_result: Callable[..., Result]) -> None:
    assert Comparison([*many, make_result("zero", roc={})]).readable[-1].name == "zero"
