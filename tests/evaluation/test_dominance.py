"""A defense is dominated where DP-SGD is at least as useful and leaks less, beyond doubt and measured alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import dominated
from palisade.evaluation.result import Result, Row
from palisade.targets.statement import Statement

CLIPPING_STATEMENT = Statement(guarantee=False, epsilon=math.inf, noise_multiplier=0.0)
DP_STATEMENT = Statement(guarantee=True, epsilon=64.0, delta=1e-5, accountant="PRV")


@pytest.fixture
def dp(make_result: Callable[..., Result]) -> Callable[..., Result]:
    return lambda **own: make_result(
        "dp_sgd", **{"strength": 64, "statement": DP_STATEMENT, "accuracy": 0.9, "separation": 0.3} | own
    )


@pytest.fixture
def heuristic(make_result: Callable[..., Result]) -> Callable[..., Result]:
    return lambda **own: make_result("hamp", **{"strength": 0.5, "accuracy": 0.9, "separation": 0.8} | own)


def test_equal_accuracy_and_clearly_less_leakage(dp: Callable[..., Result], heuristic: Callable[..., Result]) -> None:
    result = heuristic()
    (flag,) = dominated(result, Comparison([result, dp()]))
    assert flag.name == "dominated by DP-SGD"
    assert "dp_sgd ε=64 is at least as useful (90.0 % against 90.0 % test accuracy)" in flag.sentence
    assert "at 1 % FPR (2.1 % against 6.3 %). It has a guarantee besides." in flag.sentence


def test_clipping_alone_counts_and_the_smallest_epsilon_is_named(
    dp: Callable[..., Result], heuristic: Callable[..., Result]
) -> None:
    result, clipped = heuristic(), dp(strength=math.inf, statement=CLIPPING_STATEMENT)
    (flag,) = dominated(result, Comparison([result, clipped]))
    assert "dp_sgd ε=∞" in flag.sentence and "It proves nothing either." in flag.sentence
    (flag,) = dominated(result, Comparison([clipped, result, dp()]))
    assert "dp_sgd ε=64" in flag.sentence


@pytest.mark.parametrize(
    "own",
    [
        {"accuracy": 0.899},  # a little less accurate
        {"separation": 0.75},  # overlapping intervals
        {"separation": 0.9},  # leaks more
        {"seed": 1},  # other records
        {"canary": "ood", "nonmembers": 628},  # canaries alone
        {"threat": "label_only"},  # weaker attackers
        {"models": 8},  # fewer shadows
        {"guard": "memguard"},  # what a guard hides is not its merit
        {"roc": {}},  # nothing measured
        {"nonmembers": 50},  # nothing resolved
    ],
)
def test_not_dominated(dp: Callable[..., Result], heuristic: Callable[..., Result], own: dict[str, Any]) -> None:
    result = heuristic()
    assert not list(dominated(result, Comparison([result, dp(**own)])))


def test_canaries_are_compared_with_canaries(dp: Callable[..., Result], heuristic: Callable[..., Result]) -> None:
    result = heuristic(canary="ood")
    assert list(dominated(result, Comparison([result, dp(canary="ood")])))
    assert not list(dominated(result, Comparison([result, dp(canary="label_noise")])))
    assert not list(dominated(result, Comparison([result, dp()])))


@pytest.mark.parametrize("defense", ["dp_sgd", "selena(dp_sgd)", "pate", "none"])
def test_neither_private_training_nor_the_undefended_run_is_dominated(
    make_result: Callable[..., Result], dp: Callable[..., Result], defense: str
) -> None:
    statement = Statement.none() if defense == "none" else replace(DP_STATEMENT, epsilon=256.0)
    result = make_result(defense, accuracy=0.9, separation=0.9, statement=statement)
    assert not list(dominated(result, Comparison([result, dp()])))


def test_the_undefended_models_behind_a_guard_can_be(
    make_result: Callable[..., Result], dp: Callable[..., Result]
) -> None:
    result = make_result(accuracy=0.9, guard="topk", guard_strength=3)
    assert list(dominated(result, Comparison([result, dp()])))


@pytest.mark.parametrize("defense", ["selena(dp_sgd)", "pate"])
def test_only_dp_sgd_dominates(
    make_result: Callable[..., Result], heuristic: Callable[..., Result], defense: str
) -> None:
    result = heuristic()
    other = make_result(defense, accuracy=0.95, separation=0.1, statement=DP_STATEMENT)
    assert not list(dominated(result, Comparison([result, other])))
    assert list(dominated(result, Comparison([result, replace(other, defense="dp_sgd(label_smoothing)")])))


def test_ties_are_no_protection(dp: Callable[..., Result], heuristic: Callable[..., Result]) -> None:
    result, other = heuristic(), dp()
    tied = replace(other, rows=[*other.rows, Row(metric="tied@1%fpr", value=0.5, attack="lira")])
    assert not list(dominated(result, Comparison([result, tied])))


def test_a_refuted_claim_dominates_nobody(
    make_violated: Callable[..., Result], heuristic: Callable[..., Result]
) -> None:
    result, broken = heuristic(), make_violated(accuracy=0.9, separation=0.1)
    assert not list(dominated(result, Comparison([result, broken])))
    assert list(dominated(result, Comparison([result, replace(broken, audit={})])))
