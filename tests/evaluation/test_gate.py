"""A gate tells of every run why it passes or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from referee_gate import limit_of, normal, results

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import LIMIT_EXCEEDED, NOT_DECIDED, WITHIN_LIMIT, Limit, gate
from palisade.evaluation.result import Result, tpr_at

FIVE_PERCENT_GATE = Limit(name="gate", max_tpr=0.05)


def test_a_line_for_each_run_and_one_fails_all(make_result: Callable[..., Result]) -> None:
    low, exceeded = make_result("l2", strength=0.1, separation=0.2), make_result(separation=0.9)
    lines, passed = gate(Comparison([low, exceeded]), FIVE_PERCENT_GATE)
    assert not passed
    assert lines == [
        "gate: at most 5 % of members found at 1 % FPR",
        "EXCEEDED: undefended (mlp-none-None): 7.7 % (up to 8.7 %) by lira is more than the limit",
        "kept: l2 0.1 (mlp-l2-0.1): 1.7 % (up to 2.1 %) by lira",
    ]
    assert gate(Comparison([low]), FIVE_PERCENT_GATE)[1]


def test_what_cannot_be_measured_does_not_pass(make_result: Callable[..., Result]) -> None:
    lines, passed = gate(Comparison([make_result(separation=0.0)]), Limit(name="gate", fpr=0.001, max_tpr=0.05))
    assert not passed and lines[1].startswith("not decided: ") and "cannot be resolved" in lines[1]


def test_a_fleet_that_no_attack_with_shadows_was_chosen_for_is_kept_as_far_as_that_tells(make_result) -> None:
    result = make_result("l2", strength=0.1, separation=0.2)
    alone = [row for row in result.rows if row.attack in (None, "", "loss")]
    blind = replace(result, rows=alone, roc={"loss": result.roc["loss"]}, needs={"loss": result.needs["loss"]})
    lines, passed = gate(Comparison([blind]), FIVE_PERCENT_GATE)
    assert passed and lines[1].startswith("kept as far as an audit without shadows can tell: l2 0.1 ")


def test_fleets_with_canaries_are_gated(make_result: Callable[..., Result]) -> None:
    assert not gate(Comparison([make_result(canary="ood", separation=2.0)]), FIVE_PERCENT_GATE)[1]


def of_few(result: Result, tprs: list[float]) -> Result:
    """Results of a fleet of these TPRs; the interval of their mean stays."""
    rows = [row for row in result.rows if row.model == "all" or row.metric != tpr_at(0.01)]
    mine = result.get(tpr_at(0.01), attack="lira")
    rows += [replace(mine, value=tpr, low=None, high=None, model=k, members=630) for k, tpr in enumerate(tprs)]
    return replace(result, models=len(tprs), rows=rows)


def test_fewer_than_four_models_are_refused(make_result: Callable[..., Result]) -> None:
    result = of_few(make_result(separation=0.2), [0.017] * 3)
    lines, passed = gate(Comparison([result]), FIVE_PERCENT_GATE)
    assert not passed and lines[1].startswith("not decided: ") and "models=3 do not tell" in lines[1]
    assert "train at least 4, better fleet.models=16" in lines[1]
    above = of_few(make_result(separation=1.5), [0.2] * 3)
    assert FIVE_PERCENT_GATE.verdict(above, Comparison([above])).word == LIMIT_EXCEEDED


def test_models_that_differ_widen_the_interval(make_result: Callable[..., Result]) -> None:
    alike = of_few(make_result(separation=0.2), [0.017] * 8)
    assert FIVE_PERCENT_GATE.verdict(alike, Comparison([alike])).word == WITHIN_LIMIT
    assert gate(Comparison([alike]), FIVE_PERCENT_GATE)[0][1].endswith(
        "of 8 models, a kind that is one in 4 is missing with probability 10 %"
    )
    apart = of_few(make_result(separation=0.2), [0.0, 0.055, 0.0, 0.045])
    verdict = FIVE_PERCENT_GATE.verdict(apart, Comparison([apart]))
    assert verdict.word == NOT_DECIDED and "more models tell, fleet.models=16" in (verdict.why or "")
    # mean 0.025, s 0.0292, half 3.182 · s / 2 = 0.0464
    assert FIVE_PERCENT_GATE.highest(apart) is not None and FIVE_PERCENT_GATE.highest(apart).high == pytest.approx(
        0.0714, abs=2e-4
    )  # type: ignore[union-attr]


def test_twins_of_complementary_membership_count_once(make_result: Callable[..., Result]) -> None:
    result = of_few(make_result(separation=0.2), [0.0, 0.04, 0.04, 0.0])
    twins = replace(result, config={**result.config, "membership": {"how": "complementary", "share": 0.5}})
    assert FIVE_PERCENT_GATE.verdict(result, Comparison([result])).word == NOT_DECIDED
    assert FIVE_PERCENT_GATE.verdict(twins, Comparison([twins])).word == WITHIN_LIMIT  # both pairs find 2 %


def test_a_model_that_alone_leaks_more_does_not_pass(make_result: Callable[..., Result]) -> None:
    result = of_few(make_result(separation=0.2), [0.01] * 31 + [0.2])
    verdict = FIVE_PERCENT_GATE.verdict(result, Comparison([result]))
    assert verdict.word == LIMIT_EXCEEDED and "20.0 % by lira in model 31" in (verdict.why or "")
    luck = of_few(make_result(separation=0.2), [0.016] * 31 + [0.055])
    assert FIVE_PERCENT_GATE.verdict(luck, Comparison([luck])).word == WITHIN_LIMIT


@pytest.mark.slow
def test_a_leak_at_the_limit_rarely_passes_where_models_differ() -> None:
    rng, limit = np.random.default_rng(7), limit_of(normal)
    for models in (4, 8):
        fleets = [results(rng, normal(rng, models)) for _ in range(40)]
        assert sum(limit.verdict(result, Comparison([result])).word == WITHIN_LIMIT for result in fleets) <= 4
