"""The run that is chosen is the most useful of those that are known to keep a limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from palisade.evaluation.choice import recommend, ship_command
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import Limit
from palisade.evaluation.result import Result
from palisade.evaluation.utility import UTILITY_MEASURES
from palisade.targets.guards import TopK
from palisade.targets.guards.registry import label, register
from palisade.targets.statement import Statement
from tests.evaluation.conftest import claim

Make = Callable[..., Result]
FIVE_PERCENT_CHOICE = Limit(name="choose", max_tpr=0.05)


def test_the_most_useful_of_those_that_keep_it(make_result: Make) -> None:
    runs = [
        make_result(accuracy=0.97, separation=0.9),
        make_result("l2", strength=0.1, accuracy=0.93, separation=0.2),
        make_result("l2", strength=0.2, accuracy=0.91, separation=0.1),
    ]
    lines, best = recommend(Comparison(runs), FIVE_PERCENT_CHOICE)
    assert best is runs[1]
    assert lines[0] == "choose: at most 5 % of members found at 1 % FPR"
    assert lines[1].startswith("l2 0.1 (mlp-l2-0.1): test accuracy 93.0 % [92.2–93.8], 1.7 % (up to 2.1 %) by lira")
    assert lines[2].startswith("No proof stands behind it: ")
    assert lines[3].endswith(
        "l2 0.2 leaks least (test accuracy 91.0 % [90.2–91.8]), and is the “best protected” of the report."
    )
    assert "flatters" in lines[4]
    assert lines[5] == "to ship it: python train.py ship=runs/digits/mlp-l2-0.1"
    assert lines[6:] == ["not undefended (mlp-none-None): 7.7 % (up to 8.7 %) by lira is more than the limit"]


def test_a_choice_without_a_claim_says_so_and_names_the_best_with_one(make_result: Make) -> None:
    clipped = Statement(guarantee=False, epsilon=math.inf, noise_multiplier=0.0)
    weak = make_result("dp_sgd", strength=math.inf, statement=clipped, accuracy=0.97, separation=0.2)
    strict, useful = (
        make_result("dp_sgd", strength=epsilon, statement=claim(epsilon), accuracy=accuracy, separation=0.1)
        for epsilon, accuracy in ((1, 0.85), (4, 0.93))
    )
    lines, best = recommend(Comparison([weak, strict, useful]), FIVE_PERCENT_CHOICE)
    assert best is weak and lines[2].startswith("Its gradients were clipped without noise, which is no differential")
    assert "the most useful run within the limit is dp_sgd ε=4 (mlp-dp_sgd-4): test accuracy 93.0 %" in lines[2]
    lines, _ = recommend(Comparison([weak]), FIVE_PERCENT_CHOICE)
    assert lines[2].endswith("No run that states a guarantee keeps the limit.")
    lines, best = recommend(Comparison([strict, useful]), FIVE_PERCENT_CHOICE)
    assert best is useful and not any("No proof" in line for line in lines)


def test_none_keeps_it_and_which_comes_nearest(make_result: Make) -> None:
    lines, best = recommend(
        Comparison([make_result(separation=0.9), make_result("l2", strength=1.0, separation=0.7)]), FIVE_PERCENT_CHOICE
    )
    assert best is None
    assert lines[1] == "none of 2 runs keeps it; l2 1 comes nearest, with 5.2 % (up to 6.0 %) by lira"
    assert not any("ship=" in line for line in lines)


def test_where_nothing_is_measured_none_comes_nearest(make_result: Make) -> None:
    lines, best = recommend(Comparison([make_result()]), Limit(name="choose", fpr=0.001, max_tpr=0.05))
    assert best is None and lines[1] == "none of 1 run keeps it"
    assert "cannot be resolved" in lines[2]


def test_a_utility_that_no_run_can_have_is_no_choice(make_result: Make) -> None:
    run = replace(make_result(), utility=UTILITY_MEASURES["roc_auc"])
    with pytest.raises(ValueError, match=r"^utility=roc_auc"):
        recommend(Comparison([run]), FIVE_PERCENT_CHOICE)


def test_masks_refuted_claims_and_canaries_do_not_qualify(
    make_result: Make, make_guarded: Make, make_violated: Make
) -> None:
    bare = make_result(separation=1.2)
    runs = [
        bare,
        make_guarded(bare, "memguard", None, 0.3),
        make_violated(accuracy=0.99, separation=0.1),
        make_result("l1", strength=1, canary="ood", accuracy=0.99, separation=0.0),
    ]
    lines, best = recommend(Comparison(runs), Limit(name="choose", max_tpr=0.1))
    assert best is None
    text = "\n".join(lines)
    for reason in ("it masks what it leaks", "its claim is refuted", "only its canaries were attacked"):
        assert reason in text


def test_utility_is_the_one_that_was_chosen(make_result: Make) -> None:
    runs = [make_result("l2", strength=s, separation=0.1) for s in (1.0, 2.0)]
    for result, loss in zip(runs, (0.2, 0.4), strict=True):
        result.rows.append(replace(result.rows[0], metric="test_log_loss", value=loss, low=loss, high=loss))
    lines, best = recommend(
        Comparison([replace(result, utility=UTILITY_MEASURES["log_loss"]) for result in runs]), FIVE_PERCENT_CHOICE
    )
    assert best is not None and best.strength == 1.0, "less is better"
    assert "test log loss 0.200" in lines[1]
    both = [replace(result, utility=UTILITY_MEASURES["log_loss"]) for result in (make_result(separation=0.1), runs[0])]
    lines, best = recommend(Comparison(both), FIVE_PERCENT_CHOICE)
    assert best is both[1] and any("its test log loss cannot be measured" in line for line in lines)


def test_the_command_brings_the_guard(make_result: Make, tmp_path: Path) -> None:
    guard = TopK(k=3)
    register(tmp_path / "mlp-none-0", guard)
    result = make_result(guard="topk", run=f"mlp-none-0+{label(guard)}", folder=str(tmp_path / "mlp-none-0"))
    assert ship_command(result) == f"python train.py ship={tmp_path}/mlp-none-0 guard=topk guard.k=3"
