"""Search spaces: checked before anything is trained, and proposals within their ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from palisade.evaluation.frontier_search import Range, Space
from palisade.train import composed

SEARCH_SPACE: dict[str, Any] = {
    "l2": {"weight_decay": {"low": 1e-5, "high": 1e-1, "log": True}},
    "early_stopping": {"epochs": {"low": 2, "high": 9}},
    "dp_sgd": {"trainer": {"optimizer": {"lr": [0.1, 1.0]}}},
}


def test_proposals_stay_in_their_ranges() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposals = [Space(SEARCH_SPACE).suggest(study.ask()) for _ in range(60)]
    by_defense = {
        defense: [words[1:] for words in proposals if words[0] == f"defense={defense}"] for defense in SEARCH_SPACE
    }
    assert all(by_defense.values())
    values = {key: [float(words[0].partition("=")[2]) for words in by_defense[key]] for key in SEARCH_SPACE}
    assert all(1e-5 <= value <= 1e-1 for value in values["l2"]) and min(values["l2"]) < 1e-3, "orders of magnitude"
    assert all(value == float(f"{value:.3g}") for value in values["l2"])
    assert set(values["early_stopping"]) <= set(range(2, 10))
    assert {words[0] for words in by_defense["early_stopping"]} <= {f"defense.epochs={k}" for k in range(2, 10)}
    assert {words[0] for words in by_defense["dp_sgd"]} == {f"defense.trainer.optimizer.lr={lr}" for lr in (0.1, 1.0)}


def test_one_point_of_each_defense_shows_whether_its_settings_exist() -> None:
    assert list(Space(SEARCH_SPACE).corners()) == [
        ("l2", ["defense=l2", "defense.weight_decay=1e-05"]),
        ("early_stopping", ["defense=early_stopping", "defense.epochs=2"]),
        ("dp_sgd", ["defense=dp_sgd", "defense.trainer.optimizer.lr=0.1"]),
    ]


def test_the_space_that_comes_with_the_search_exists() -> None:
    search = OmegaConf.load(Path(__file__).parents[2] / "conf" / "search" / "frontier.yaml")
    corners = list(Space(OmegaConf.to_container(search)["space"]).corners())
    assert len(corners) == 4
    for defense, corner in corners:
        assert composed(*corner)["names"]["defense"] == defense


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"^space=\{\}: expected defenses to try; "),
        ({"none": {}}, r"^space\.none=\{\}: expected .*~search\.space\.none$"),
        (
            {"l2": {"weight_decay": 1}},
            r"^search\.space\.l2\.weight_decay=1: expected values to try; ",
        ),
        ({"l2": {"weight_decay": []}}, r"^search\.space\.l2\.weight_decay=\[\]: expected values to try; "),
        ({"l2": {"a": {"low": 1}}}, r"^search\.space\.l2\.a\.high: not given, expected a number; "),
        (
            {"l2": {"a": {"low": 1, "high": 2, "step": 1}}},
            r"^search\.space\.l2\.a\.step=1: no such setting, ",
        ),
        ({"l2": {"a": {"low": 2, "high": 1}}}, r"^search\.space\.l2\.a\.low=2: expected numbers, low below high=1"),
        (
            {"l2": {"a": {"low": 0.0, "high": 1, "log": True}}},
            r"\.low=0\.0: expected numbers, ",
        ),
        (
            {"l2": {"a": {"low": 1, "high": 2, "log": "yes"}}},
            r"^search\.space\.l2\.a\.log=yes: expected true or ",
        ),
        ({"l2": {"a": {"low": "x", "high": 1}}}, r"\.low=x: expected a number; "),
        ({"l2": {"a": {"low": 1, "high": float("inf")}}}, r"\.high=inf: expected a finite number; "),
        ({"l2": {"a": {"low": float("nan"), "high": 1.0}}}, r"\.low=nan: expected a finite number; "),
    ],
)
def test_what_cannot_be_searched_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space(space)


def test_whole_numbers_are_proposed_where_both_ends_are() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert isinstance(Range(low=1, high=9).suggest(trial, "a"), int)
    assert not isinstance(Range(low=1.0, high=9).suggest(trial, "b"), int)
