"""A defense that names its weakest canaries is flagged until it was tried on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import unadapted
from palisade.evaluation.result import Result


@pytest.fixture
def selena(make_result: Callable[..., Result]) -> Callable[..., Result]:
    return lambda **own: make_result("selena", **{"strength": 10, "canaries": ("near_duplicate",)} | own)


def test_without_them_the_error_names_the_command(selena: Callable[..., Result], sweep: list[Result]) -> None:
    result = selena()
    (flag,) = unadapted(result, Comparison([result, *sweep]))
    assert flag.name == "adaptive attack missing"
    assert flag.sentence.endswith("python train.py … defense=selena canary=near_duplicate")


def test_with_them_neither_run_is_flagged(selena: Callable[..., Result]) -> None:
    runs = [selena(), selena(canary="near_duplicate"), selena(canary="ood")]
    assert not [flag for result in runs for flag in unadapted(result, Comparison(runs))]


def test_defenses_that_name_none_are_not_flagged(sweep: list[Result]) -> None:
    assert not [flag for result in sweep for flag in unadapted(result, Comparison(sweep))]


@pytest.mark.parametrize(
    "own",
    [
        {"config": {"defense": {"sub_models": 25}}},
        {"seed": 1},
        {"canary": "ood"},
        {"defense": "hamp"},
        {"guard": "topk"},
    ],
)
def test_canaries_of_another_run_do_not_count(selena: Callable[..., Result], own: dict[str, object]) -> None:
    result, other = selena(), replace(selena(canary="near_duplicate"), **own)
    assert list(unadapted(result, Comparison([result, other])))


def test_each_missing_kind_is_named(selena: Callable[..., Result]) -> None:
    result = selena(canaries=("near_duplicate", "ood"), canary="ood")
    assert len(list(unadapted(result, Comparison([result])))) == 1
    assert len(list(unadapted(replace(result, canary="none"), Comparison([replace(result, canary="none")])))) == 2
