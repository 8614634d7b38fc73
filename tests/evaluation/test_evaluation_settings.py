"""Settings of an evaluation are parsed once: typed, complete, and beside what was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.evaluation.settings import EvaluationSettings

CONF_FOLDER = Path(__file__).parents[2] / "conf"


@pytest.fixture
def composed() -> Callable[..., dict[str, Any]]:
    def settings(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
            plain: Any = OmegaConf.to_container(compose("evaluate", list(overrides)), resolve=True)
        return {**plain, "command": "python evaluate.py"}

    return settings


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        EvaluationSettings.parsed(settings)
    return str(caught.value)


def test_settings_keep_their_values(composed: Callable[..., dict[str, Any]]) -> None:
    plain = composed("data=digits", "queries=[plain,mirrored]")
    settings = EvaluationSettings.parsed(plain)
    assert settings.plain is plain and settings.queries == ["plain", "mirrored"] and settings.data_name == "digits"
    assert EvaluationSettings.parsed(composed()).data_name is None
    assert EvaluationSettings.parsed(composed("data=csv", "data.path=a/b.csv")).data_name == "b"


def test_an_audit_has_settings_of_its_own(composed: Callable[..., dict[str, Any]]) -> None:
    plain = composed("audit=outputs", "members=a.npz", "nonmembers=b.npz")
    assert EvaluationSettings.parsed(plain).plain["members"] == "a.npz"
    assert refused({**plain, "audit": None}).startswith("members=a.npz: no such setting, expected one of attack, ")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"gates": 1}, "gates=1: no such setting, expected one of attack, "),
        ({"attack": {}}, "attack={}: expected a group of settings, not empty; "),
        ({"attack": {"lira": 3}}, "attack.lira=3: expected a group of settings; "),
        ({"root": ""}, "root=: expected a text, not empty; "),
        ({"plan": "maybe"}, "plan=maybe: expected true or false; "),
        ({"plan": True, "study": {"name": "a"}}, "plan=true: expected false with study=…"),
        ({"search": {"name": "a"}, "study": {"name": "a"}}, "study=…: expected none beside search=…; "),
        ({"name": "../a"}, "name=../a: expected the name of a folder in reports; "),
        ({"search": {"name": None}}, "search.name=null: expected the name of a folder in reports; "),
        ({"runs": "a\0b"}, "runs='a\\x00b': expected a path; "),
        ({"data": {"nme": "digits"}}, "data={'nme': 'digits'}: expected a data set; "),
        ({"gate": {"max_tpr": float("nan")}}, "gate.max_tpr=nan: expected a number; "),
    ],
)
def test_wrong_settings_are_refused_by_key_and_value(
    composed: Callable[..., dict[str, Any]], changed: dict[str, Any], line: str
) -> None:
    assert refused({**composed("data=digits"), **changed}).startswith(line)


def test_a_path_that_names_the_data_is_required(composed: Callable[..., dict[str, Any]]) -> None:
    settings = EvaluationSettings.parsed(composed("data=csv"))
    with pytest.raises(ValueError, match=r"^data\.path: not given, expected a file; add it, "):
        settings.data_name  # noqa: B018
