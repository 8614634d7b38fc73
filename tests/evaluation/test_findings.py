"""Which attack stands for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.findings import Findings, Row, most_powerful
from palisade.evaluation.limits.limit import Limit


def test_auc_decides_unless_all_resolve_the_low_rate():
    assert most_powerful({"loss": (0.14, 0.82), "base": (0.2, 0.7)}) == "base"
    assert most_powerful({"loss": (0.14, 0.82), "base": (None, 0.92)}) == "base"
    assert most_powerful({"loss": (0.14, 0.82), "base": (0.14, 0.92)}) == "base"
    with pytest.raises(ValueError):
        most_powerful({})


def test_an_attack_on_a_sample_of_the_records_does_not_stand_for_the_run(make_findings: Callable[..., Findings]):
    found = make_findings()
    assert found.strongest == "lira"
    sampled = [Row(metric="unscored", attack="lira", access="black_box", value=0.6)]
    assert replace(found, rows=[*found.rows, *sampled]).strongest == "lira_offline"
    all_sampled = [Row(metric="unscored", attack=attack, access="black_box", value=0.6) for attack in found.attacks]
    assert replace(found, rows=[*found.rows, *all_sampled]).strongest == "lira"


def test_an_attack_on_few_of_the_models_does_not_stand_for_the_run(make_findings: Callable[..., Findings]):
    found = make_findings()
    for targets, strongest in ((3, "lira_offline"), (4, "lira")):
        row = Row(metric="targets", attack="lira", access="black_box", value=targets)
        sampled = replace(found, rows=[*found.rows, row])
        assert sampled.strongest == strongest
        assert (Limit(name="gate", max_tpr=0.5).highest(sampled).attack == "lira") == (targets == 4)


def test_rows_tell_the_strength_of_defense_and_guard(make_findings: Callable[..., Findings]):
    found = make_findings("l2", strength=0.1, guard="topk", guard_strength=3)
    (row, *_) = found.tidy()
    assert [row[name] for name in ("defense", "strength", "guard", "guard_strength")] == ["l2", 0.1, "topk", 3]
