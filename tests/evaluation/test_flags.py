"""Flags appear where they should and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.claims import violations
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import constant, flags, meanings
from palisade.evaluation.result import AUC, LARGEST_CLASS, NONMEMBER_GROUP, Result, Row, Sides
from palisade.evaluation.utility import UTILITY_MEASURES


def names(result: Result, *others: Result) -> list[str]:
    return [flag.name for flag in flags(result, Comparison([result, *others]))]


def with_auc(result: Result, attack: str, value: float, high: float, low: float = 0.0) -> Result:
    rows = [
        replace(row, value=value, low=low, high=high) if (row.metric, row.attack) == (AUC, attack) else row
        for row in result.rows
    ]
    return replace(result, rows=rows)


def test_a_large_run_has_no_flags(make_result: Callable[..., Result]) -> None:
    assert names(make_result(nonmembers=10_000)) == []


@pytest.mark.parametrize(
    ("nonmembers", "expected"),
    [
        (99, ["1% unresolved", "0.1% unresolved"]),
        (100, ["0.1% unresolved", "1% coarse"]),
        (499, ["0.1% unresolved", "1% coarse"]),
        (500, ["0.1% unresolved"]),
        (1000, ["0.1% coarse"]),
        (5000, []),
    ],
)
def test_small_fprs_need_nonmembers_per_model(
    make_result: Callable[..., Result], nonmembers: int, expected: list[str]
) -> None:
    assert names(make_result(nonmembers=nonmembers)) == expected


def test_sentences_say_the_numbers(make_result: Callable[..., Result]) -> None:
    result = make_result(nonmembers=200)
    unresolved, coarse = flags(result, Comparison([result]))
    assert "0.1 % FPR cannot be measured" in unresolved.sentence and "It takes 1000" in unresolved.sentence
    assert "1 % FPR rests on fewer than 5" in coarse.sentence and "It takes 500 non-members" in coarse.sentence


@pytest.mark.parametrize(("value", "high", "flagged"), [(0.4, 0.45, True), (0.4, 0.5, False), (0.49, 0.52, False)])
def test_auc_below_half_counts_only_beyond_its_interval(
    make_result: Callable[..., Result], value: float, high: float, flagged: bool
) -> None:
    result = with_auc(make_result(nonmembers=10_000), "loss", value, high)
    assert names(result) == (["AUC<½"] if flagged else [])
    assert not flagged or "AUC of loss is 0.400" in flags(result, Comparison([result]))[0].sentence


def test_epsilon_above_ten_is_vacuous_only_as_a_guarantee(sweep: list[Result]) -> None:
    flagged = {result.strength for result in sweep if "ε vacuous" in names(result)}
    assert flagged == {16, 64, 256}  # neither 1 and 4 nor the clip-only run, which claims nothing


def test_a_run_without_attacks_has_no_flags(make_result: Callable[..., Result]) -> None:
    assert names(make_result(roc={})) == []


def test_a_violated_claim_comes_first_with_its_numbers(make_violated: Callable[..., Result]) -> None:
    result, other = make_violated(), make_violated(strength=16, run="another")
    judged = violations([result, other])
    assert [violation.result.run for violation in judged] == [result.run]
    first, *_ = flags(result, Comparison([result, other]))
    assert first.name == "CLAIM VIOLATED"
    assert "not 0.997 as claimed: so many of 100 guesses" in first.sentence and "at most 0.025" in first.sentence
    assert f"ε is above {judged[0].bound:.2f}" in first.sentence and "do not release" in first.sentence
    assert "CLAIM VIOLATED" not in names(other, result)


@pytest.mark.parametrize(("fitted", "flagged"), [(0.31, True), (0.5, False), (0.98, False)])
def test_canaries_that_were_not_learned(make_result: Callable[..., Result], fitted: float, flagged: bool) -> None:
    result = make_result(nonmembers=10_000, canary="ood", fitted=fitted)
    assert names(result) == (["canaries unfitted"] if flagged else [])
    assert not flagged or "Only 31 % of the canaries" in flags(result, Comparison([result]))[0].sentence


def test_meanings_name_the_runs_and_what_stops_a_release_comes_first(
    make_result: Callable[..., Result], make_violated: Callable[..., Result]
) -> None:
    small = [make_result(), make_result("l2", strength=0.1)]
    by_flag = meanings(Comparison([*small, make_violated(nonmembers=10_000)]))
    assert list(by_flag) == ["CLAIM VIOLATED", "0.1% unresolved"]
    ((sentence, titles),) = by_flag["0.1% unresolved"].items()
    assert titles == ["undefended", "l2 0.1"] and "0.1 % FPR cannot be measured" in sentence
    assert list(by_flag["CLAIM VIOLATED"].values()) == [["dp_sgd ε=1"]]


@pytest.mark.parametrize(("accuracy", "flagged"), [(0.93, True), (0.937, True), (0.94, False), (0.5, True)])
def test_accuracy_that_one_class_reaches_too_is_flagged(
    make_result: Callable[..., Result], accuracy: float, flagged: bool
) -> None:
    result = make_result(accuracy=accuracy, nonmembers=10_000)  # ± 0.008
    result = replace(result, rows=[*result.rows, Row(metric=LARGEST_CLASS, value=0.93)])
    assert ("no better than one class" in names(result)) == flagged
    assert "no better than one class" not in names(make_result(accuracy=accuracy)), "nothing to compare with"


def test_a_constant_answer_is_that_of_the_measure_and_stands_beside_it(make_result: Callable[..., Result]) -> None:
    result = make_result(accuracy=0.94)
    rows = [*result.rows, Row(metric=LARGEST_CLASS, value=0.93), Row(metric="test_balanced_accuracy", value=0.51)]
    result = replace(result, rows=rows, dataset={"classes": ["no", "yes"]})
    assert result.utility_text == "test accuracy 94.0 % [93.2–94.8] (always naming one class: 93.0 %)"
    balanced = replace(result, utility=UTILITY_MEASURES["balanced_accuracy"])
    assert balanced.utility_text == "balanced test accuracy 51.0 % (always naming one class: 50.0 %)"
    assert replace(result, utility=UTILITY_MEASURES["log_loss"]).constant_answer is None
    sides = Sides(members=10, nonmembers=10, features=False)
    rows = [Row(metric="accuracy", value=0.7, low=0.6, high=0.8, group=NONMEMBER_GROUP)]
    model = replace(result, sides=sides, rows=[*rows, Row(metric=LARGEST_CLASS, value=0.65, group=NONMEMBER_GROUP)])
    assert [flag.name for flag in constant(model, Comparison([model]))] == ["no better than one class"]
