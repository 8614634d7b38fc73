"""A defense that names its weakest canaries is flagged until it was tried on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.findings import Findings
from palisade.evaluation.flags.adaptive_canaries import unadapted


@pytest.fixture
def selena(make_findings: Callable[..., Findings]) -> Callable[..., Findings]:
    return lambda **own: make_findings("selena", **{"strength": 10, "canaries": ("near_duplicate",)} | own)


def test_without_them_the_command_is_told(selena: Callable[..., Findings], sweep: list[Findings]) -> None:
    found = selena()
    (flag,) = unadapted(found, [found, *sweep])
    assert flag.name == "adaptive attack missing"
    assert flag.sentence.endswith("python train.py … defense=selena canary=near_duplicate")


def test_with_them_neither_run_is_flagged(selena: Callable[..., Findings]) -> None:
    runs = [selena(), selena(canary="near_duplicate"), selena(canary="ood")]
    assert not [flag for found in runs for flag in unadapted(found, runs)]


def test_defenses_that_name_none_are_not_flagged(sweep: list[Findings]) -> None:
    assert not [flag for found in sweep for flag in unadapted(found, sweep)]


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
def test_canaries_of_another_run_do_not_count(selena: Callable[..., Findings], own: dict[str, object]) -> None:
    found, other = selena(), replace(selena(canary="near_duplicate"), **own)
    assert list(unadapted(found, [found, other]))


def test_each_missing_kind_is_told(selena: Callable[..., Findings]) -> None:
    found = selena(canaries=("near_duplicate", "ood"), canary="ood")
    assert len(list(unadapted(found, [found]))) == 1
    assert len(list(unadapted(replace(found, canary="none"), [replace(found, canary="none")]))) == 2
