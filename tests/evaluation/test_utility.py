"""Utility is one of four measures, and more of it is better whatever the measure."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.tradeoff import tradeoff
from palisade.evaluation.flags import dominated
from palisade.evaluation.report.sections import costs
from palisade.evaluation.report.verdict import heading
from palisade.evaluation.result import Result, Row
from palisade.evaluation.table import cells, show_results
from palisade.evaluation.utility import CALIBRATION_METRIC, TEST_ACCURACY, TEST_PERPLEXITY, UTILITY_MEASURES, Utility

LOG_LOSS, ROC_AUC = UTILITY_MEASURES["log_loss"], UTILITY_MEASURES["roc_auc"]


def read_by(result: Result, utility: Utility, value: float | None) -> Result:
    low, high = (None, None) if value is None else (value - 0.01, value + 0.01)
    rows = [Row(metric=utility.metric, value=value, low=low, high=high), Row(metric=CALIBRATION_METRIC, value=0.031)]
    return replace(result, rows=[*result.rows, *rows], utility=utility)


def test_names_and_unknown_ones() -> None:
    assert [utility.metric for utility in UTILITY_MEASURES.values()] == [
        "test_accuracy", "test_balanced_accuracy", "test_roc_auc", "test_log_loss",
    ]  # fmt: skip
    assert Utility.named("accuracy") is TEST_ACCURACY
    with pytest.raises(ValueError, match=r"utility=f1"):
        Utility.named("f1")


def test_texts() -> None:
    row = Row(metric="any", value=0.6754, low=0.66, high=0.691)
    assert TEST_ACCURACY.text(row, interval=True) == "67.5 % [66.0–69.1]" and TEST_ACCURACY.text(row) == "67.5 %"
    assert LOG_LOSS.text(row, interval=True) == "0.675 [0.660–0.691]"
    assert ROC_AUC.text(replace(row, low=None), interval=True) == "0.675"
    assert TEST_ACCURACY.text(None) == TEST_ACCURACY.text(replace(row, value=None)) == "–"
    assert TEST_ACCURACY.nearly == "within 5 points of the best accuracy"
    assert LOG_LOSS.nearly == "within 0.05 of the best log loss"
    assert LOG_LOSS.axis == "test log loss (lower is better)" and ROC_AUC.axis == "test ROC AUC"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.2719, "3.27 [2.94–3.60]"),
        (16.828, "16.8 [15.1–18.5]"),
        (1234.567, "1,235 [1,111–1,358]"),
        (4.852e8, "4.85e+08 [4.37e+08–5.34e+08]"),
        (math.inf, "inf [inf–inf]"),
    ],
)
def test_three_digits_of_a_perplexity_count(value: float, shown: str) -> None:
    row = Row(metric="test_perplexity", value=value, low=0.9 * value, high=1.1 * value)
    assert TEST_PERPLEXITY.text(row, interval=True) == shown


def test_a_twentieth_of_a_perplexity_is_a_small_loss(make_result: Callable[..., Result]) -> None:
    assert TEST_PERPLEXITY.nearly == "within 5 % of the best perplexity"
    runs = [
        read_by(make_result(defense, strength=strength, separation=separation), TEST_PERPLEXITY, perplexity)
        for defense, strength, separation, perplexity in (
            ("none", None, 0.9, 20.0), ("l2", 0.1, 0.6, 20.8), ("l2", 0.2, 0.3, 21.2), ("l2", 0.3, 0.2, 40.0)
        )
    ]  # fmt: skip
    assert [(kind, result.strength) for kind, result, _ in Comparison(runs).highlights] == [
        ("undefended", None), ("protected", 0.3), ("useful", 0.1),
    ]  # fmt: skip
    shown = [(line["utility"], line["loss"]) for line in costs(runs)]
    assert ("20.0 [20.0–20.0]", "–") in shown and ("21.2 [21.2–21.2]", "1.2 [1.2 to 1.2]") in shown


def test_more_is_worth_more_whatever_the_measure(make_result: Callable[..., Result]) -> None:
    assert TEST_ACCURACY.worth(0.9) > TEST_ACCURACY.worth(0.8) and LOG_LOSS.worth(0.2) > LOG_LOSS.worth(0.3)
    assert LOG_LOSS.worth(None) == TEST_ACCURACY.worth(None) == -math.inf
    assert make_result(accuracy=0.8).worth == 0.8
    assert read_by(make_result(), LOG_LOSS, 0.4).worth == -0.4
    assert replace(make_result(), utility=LOG_LOSS).worth == -math.inf


@pytest.fixture
def by_log_loss(make_result: Callable[..., Result]) -> Sequence[Result]:
    """By accuracy the second of both L2 runs would be the better one."""
    return [
        read_by(make_result(separation=1.2), LOG_LOSS, 0.30),
        read_by(make_result("l2", strength=0.1, separation=0.5, accuracy=0.7), LOG_LOSS, 0.32),
        read_by(make_result("l2", strength=0.2, separation=0.3, accuracy=0.99), LOG_LOSS, 0.60),
        read_by(make_result("l1", strength=0.2, separation=0.9, accuracy=0.99), LOG_LOSS, 0.50),
    ]


def test_the_chosen_measure_decides_what_is_useful(by_log_loss: Sequence[Result]) -> None:
    comparison = Comparison(by_log_loss)
    headings = {heading(each, comparison): each.result for each in comparison.highlights}
    assert headings["Best protected within 0.05 of the best log loss: l2 0.1"] is by_log_loss[1]
    assert headings["Best protected: l2 0.2"] is by_log_loss[2]
    assert [point.utility.value for point in comparison.frontier] == [0.60, 0.32, 0.30]


def test_table_tells_the_chosen_measure_and_calibration(by_log_loss: Sequence[Result]) -> None:
    file = io.StringIO()
    show_results(Comparison(by_log_loss), file=file)
    text = file.getvalue()
    assert "log loss" in text and "calibration" in text and "0.320" in text and "3.1 %" in text
    assert "accuracy" not in text and "97.0 %" not in text


def test_to_the_right_is_more_useful(by_log_loss: Sequence[Result]) -> None:
    axes = tradeoff(Comparison(by_log_loss)).axes[0]
    left, right = axes.get_xlim()
    assert left > right and axes.get_xlabel() == "test log loss (lower is better)"


def test_a_run_without_the_measure_is_listed_and_not_drawn(by_log_loss: Sequence[Result]) -> None:
    silent = read_by(replace(by_log_loss[1], run="silent"), LOG_LOSS, None)
    results = [*by_log_loss[:1], silent]
    drawn = [point.result.run for line in Comparison(results).series for point in line.points]
    assert drawn == [by_log_loss[0].run]
    assert cells(silent, "", {})[3] == "–" and cells(by_log_loss[0], "", {})[3] == "0.300"


@pytest.mark.parametrize(("loss", "better"), [(0.2, True), (0.4, False), (None, False)])
def test_domination_is_by_the_chosen_measure(
    make_result: Callable[..., Result], sweep: list[Result], loss: float | None, better: bool
) -> None:
    private = next(result for result in sweep if result.strength == 4 and result.defense == "dp_sgd")
    result = read_by(make_result("l2", strength=0.1, separation=1.0, accuracy=0.5), LOG_LOSS, 0.3)
    flags = list(dominated(result, Comparison([read_by(private, LOG_LOSS, loss), result])))
    assert bool(flags) == better
    assert not better or "at least as useful (0.200 against 0.300 test log loss)" in flags[0].sentence
    unmeasured = read_by(result, LOG_LOSS, None)
    assert not list(dominated(unmeasured, Comparison([read_by(private, LOG_LOSS, loss), unmeasured])))
