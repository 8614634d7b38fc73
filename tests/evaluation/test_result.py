"""Strongest attack of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.limit import Limit
from palisade.evaluation.result import Result, Row, most_powerful


def test_auc_decides_unless_all_resolve_the_low_rate():
    assert most_powerful({"loss": (0.14, 0.82), "base": (0.2, 0.7)}) == "base"
    assert most_powerful({"loss": (0.14, 0.82), "base": (None, 0.92)}) == "base"
    assert most_powerful({"loss": (0.14, 0.82), "base": (0.14, 0.92)}) == "base"
    with pytest.raises(ValueError):
        most_powerful({})


def test_an_attack_on_a_sample_of_the_records_does_not_stand_for_the_run(make_result: Callable[..., Result]):
    result = make_result()
    assert result.strongest == "lira"
    sampled = [Row(metric="unscored", attack="lira", access="black_box", value=0.6)]
    assert replace(result, rows=[*result.rows, *sampled]).strongest == "lira_offline"
    all_sampled = [Row(metric="unscored", attack=attack, access="black_box", value=0.6) for attack in result.attacks]
    assert replace(result, rows=[*result.rows, *all_sampled]).strongest == "lira"


def test_an_attack_on_few_of_the_models_does_not_stand_for_the_run(make_result: Callable[..., Result]):
    result = make_result()
    for targets, strongest in ((3, "lira_offline"), (4, "lira")):
        row = Row(metric="targets", attack="lira", access="black_box", value=targets)
        sampled = replace(result, rows=[*result.rows, row])
        assert sampled.strongest == strongest
        assert (Limit(name="gate", max_tpr=0.5).highest(sampled).attack == "lira") == (targets == 4)


def test_rows_tell_the_strength_of_defense_and_guard(make_result: Callable[..., Result]):
    result = make_result("l2", strength=0.1, guard="topk", guard_strength=3)
    (row, *_) = result.tidy()
    assert [row[name] for name in ("defense", "strength", "guard", "guard_strength")] == ["l2", 0.1, "topk", 3]
