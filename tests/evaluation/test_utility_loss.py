"""Utility loss: the difference to the undefended run of the same seed, in the words of the measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from palisade.evaluation.report.sections import costs
from palisade.evaluation.result import Result, Row
from palisade.evaluation.utility import CALIBRATION_METRIC, Utility


def test_loss_in_points_with_an_interval(make_result: Callable[..., Result]) -> None:
    bare, dp, l2 = (
        make_result(name, accuracy=a, strength=s)
        for name, a, s in (("none", 0.9, None), ("dp_sgd", 0.8, 4.0), ("l2", 0.92, 0.1))
    )
    by_title = {cost["title"]: cost for cost in costs([dp, l2, bare])}
    assert by_title["undefended"]["loss"] == "–" and by_title["undefended"]["utility"] == "90.0 % [89.2–90.8]"
    # Each interval reaches 0.8 points to either side: together √2 · 0.8.
    assert by_title["dp_sgd 4"]["loss"] == "10.0 [8.9 to 11.1] points"
    assert by_title["l2 0.1"]["loss"] == "−2.0 [−3.1 to −0.9] points"


def test_less_is_better_where_the_measure_says_so(make_result: Callable[..., Result]) -> None:
    loss = Utility.named("log_loss")

    def measured(name: str, value: float, strength: float | None) -> Result:
        result = make_result(name, strength=strength)
        rows = [*result.rows, Row(metric=loss.metric, value=value), Row(metric=CALIBRATION_METRIC, value=0.031)]
        return replace(result, rows=rows, utility=loss)

    bare, other = costs([measured("none", 0.4, None), measured("l2", 0.45, 0.1)])
    assert (bare["utility"], bare["loss"], bare["calibration"]) == ("0.400", "–", "3.1 %")
    assert (other["utility"], other["loss"]) == ("0.450", "0.050")


def test_without_a_baseline_or_a_value_there_is_a_dash(make_result: Callable[..., Result]) -> None:
    l2, canaries = make_result("l2", strength=0.1), make_result(canary="ood")
    assert [cost["loss"] for cost in costs([l2, canaries])] == ["–", "–"]
    other_seed = replace(make_result(), seed=1)
    assert [cost["loss"] for cost in costs([l2, other_seed])] == ["–", "–"]
    blind = replace(l2, rows=[replace(row, value=None, low=None, high=None) for row in l2.rows])
    assert [(cost["utility"], cost["loss"]) for cost in costs([make_result(), blind])][1] == ("–", "–")
    assert costs([l2])[0]["calibration"] == "–"
