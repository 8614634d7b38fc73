"""Scores that are hidden while labels tell as much are called masked, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import MASKED_FLAG, masked
from palisade.evaluation.result import AUC, Result

HALF_INTERVAL = 0.02
SCORE_ATTACKS = ("loss", "lira", "lira_offline")


def with_aucs(result: Result, aucs: Mapping[str, float]) -> Result:
    """Copy of a run with these values and intervals of ±0.02."""

    def changed(value: float) -> dict[str, float]:
        return {"value": value, "low": value - HALF_INTERVAL, "high": value + HALF_INTERVAL}

    return replace(
        result,
        rows=[
            replace(row, **changed(aucs[row.attack])) if row.metric == AUC and row.attack in aucs else row
            for row in result.rows
        ],
    )


def answers(result: Result, labels: float, scores: float) -> Result:
    return with_aucs(result, {"correctness": labels} | dict.fromkeys(SCORE_ATTACKS, scores - 0.1) | {"lira": scores})


@pytest.fixture
def views(make_result: Callable[..., Result]) -> Callable[..., list[Result]]:
    """A run's models behind a guard, and without it."""

    def masked_view(
        defense: str = "none", *, before: tuple[float, float], after: tuple[float, float], **guarded: Any
    ) -> list[Result]:
        bare = make_result(defense)
        return [
            answers(replace(bare, **{"guard": "memguard", "run": "guarded", **guarded}), *after),
            answers(bare, *before),
        ]

    return masked_view


@pytest.mark.parametrize(("scores", "flagged"), [(0.6, True), (0.72, False), (0.76, False), (0.9, False)])
def test_a_label_only_attack_above_all_others_beyond_intervals(
    make_result: Callable[..., Result], scores: float, flagged: bool
) -> None:
    result = answers(make_result("hamp"), labels=0.75, scores=scores)
    raised = list(masked(result, Comparison([result])))
    assert [flag.name for flag in raised] == ([MASKED_FLAG] if flagged else [])
    if flagged:
        (flag,) = raised
        assert "correctness" in flag.sentence and "0.750" in flag.sentence and "lira, reaches 0.600" in flag.sentence


def test_many_queries_are_said(make_result: Callable[..., Result]) -> None:
    result = answers(make_result("hamp"), labels=0.75, scores=0.6)
    (one,) = masked(result, Comparison([result]))
    needs = {**result.needs, "correctness": {**result.needs["correctness"], "measured": 17.2}}
    (many,) = masked(replace(result, needs=needs), Comparison([result]))
    assert "queries a record" not in one.sentence and "(17 queries a record)" in many.sentence


def test_one_attack_on_scores_that_keeps_up_is_enough(make_result: Callable[..., Result]) -> None:
    result = with_aucs(make_result("hamp"), {"correctness": 0.75, "loss": 0.74, "lira": 0.6, "lira_offline": 0.5})
    assert not list(masked(result, Comparison([result])))


def test_labels_that_tell_nothing_are_no_sign_of_a_mask(make_result: Callable[..., Result]) -> None:
    result = with_aucs(make_result("hamp"), {"correctness": 0.45, "loss": 0.4, "lira": 0.4, "lira_offline": 0.4})
    assert not list(masked(result, Comparison([result])))


def test_weak_attacks_on_scores_are_no_mask(make_result: Callable[..., Result]) -> None:
    undefended = answers(make_result(), labels=0.75, scores=0.6)
    result = answers(make_result("l2", strength=0.1), labels=0.7, scores=0.55)
    assert not list(masked(undefended, Comparison([undefended, result])))
    assert not list(masked(result, Comparison([undefended, result])))
    assert list(masked(result, Comparison([result])))  # alone it cannot be known
    assert list(masked(result, Comparison([replace(undefended, canary="ood"), replace(undefended, seed=1), result])))


def test_a_guard_that_hides_most_of_what_scores_tell_beyond_labels(views: Callable[..., list[Result]]) -> None:
    # An attack on scores that knows the guard is never below the label-only one, and the guard protects nobody.
    result, bare = views(before=(0.7, 0.9), after=(0.7, 0.72))
    (flag,) = masked(result, Comparison([bare, result]))
    assert flag.name == MASKED_FLAG
    assert "Behind memguard" in flag.sentence and "lira, has an AUC of 0.720" in flag.sentence
    assert "without it lira reaches 0.900" in flag.sentence and "as much as before (0.700)" in flag.sentence
    assert not list(masked(bare, Comparison([bare, result])))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.7, 0.9), (0.7, 0.85)),  # a few decimals held back
        ((0.7, 0.9), (0.7, 0.9)),  # nothing hidden
        ((0.7, 0.75), (0.7, 0.72)),  # hidden, but not beyond the intervals
        ((0.7, 0.9), (0.6, 0.62)),  # labels tell less as well
        ((0.51, 0.9), (0.51, 0.52)),  # nothing leaks by labels
    ],
)
def test_a_guard_that_is_no_mask(
    views: Callable[..., list[Result]], before: tuple[float, float], after: tuple[float, float]
) -> None:
    result, bare = views(before=before, after=after)
    assert not list(masked(result, Comparison([bare, result])))


def test_the_same_models_must_be_there_without_the_guard(views: Callable[..., list[Result]]) -> None:
    result, bare = views(before=(0.7, 0.9), after=(0.7, 0.72))
    assert not list(masked(result, Comparison([result, replace(bare, folder="runs/digits/another")])))


def test_attacks_that_cannot_run_behind_the_guard_hid_nothing(views: Callable[..., list[Result]]) -> None:
    result, bare = views(before=(0.7, 0.9), after=(0.7, 0.9))
    bare = with_aucs(bare, {"loss": 0.76})
    result = replace(with_aucs(result, {"loss": 0.75}), roc={attack: ((), ()) for attack in ("correctness", "loss")})
    assert not list(masked(result, Comparison([result, bare])))


def test_labels_alone_are_the_honest_threat(views: Callable[..., list[Result]]) -> None:
    result, bare = views(before=(0.7, 0.9), after=(0.7, 0.72), roc={"correctness": ((), ())}, guard="label_only")
    assert not list(masked(result, Comparison([result, bare])))


def test_no_false_alarm_in_a_sweep(sweep: list[Result], canaries: list[Result]) -> None:
    together = [*sweep, *canaries]
    assert not [flag for result in together for flag in masked(result, Comparison(together))]
