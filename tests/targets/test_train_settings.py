"""Settings of a training run are parsed once: typed, complete, and beside what was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from palisade.data.canaries import Canaries
from palisade.data.split import Membership, Roles
from palisade.targets.recipe import FleetSettings
from palisade.targets.train_settings import TrainSettings

Compose = Callable[..., dict[str, Any]]


def refused(settings: Mapping[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        TrainSettings.parsed(settings)
    return str(caught.value)


def test_groups_are_typed_and_plain_settings_stay(compose: Compose) -> None:
    plain = compose("data=digits", "canary=ood", "canary.count=9", "fleet.models=3", "membership.share=0.25")
    settings = TrainSettings.parsed(plain)
    assert settings.plain is plain and settings.names["network"] == "mlp"
    assert settings.fleet == FleetSettings(models=3, workers="auto", at_once="auto")
    assert settings.membership == Membership(share=0.25) and settings.canary == Canaries(kind="ood", count=9)
    assert settings.split == Roles(population=0.1)
    assert TrainSettings.parsed(compose("data=digits")).canary is None


def test_a_release_takes_the_data_of_its_run(compose: Compose) -> None:
    assert TrainSettings.parsed(compose("ship=runs/digits/x")).data is None
    assert refused(compose()).startswith("data=null: expected a data set; choose one of ag_news, breast_cancer, ")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"guess": 0.2}, "guess=0.2: no such setting, expected one of data, network, "),
        ({"plain": {}}, "plain={}: no such setting, "),
        ({"guesses": 0.7}, "guesses=0.7: expected a number > 0 and <= 0.5; choose e.g. 0.1"),
        ({"seed": True}, "seed=true: expected an integer >= 0; "),
        ({"quiet": 1}, "quiet=1: expected true or false; "),
        ({"quiet": True, "verbose": True}, "quiet=true: expected false with verbose=true; "),
        ({"fleet": {"models": 0}}, "fleet.models=0: "),
        ({"membership": None}, "membership=null: expected a group of settings; "),
        ({"canary": {"kind": "loud"}}, "canary.kind=loud: expected one of clean, "),
        ({"trainer": {"epochs": float("nan")}}, "trainer.epochs=nan: expected a number; "),
        ({"defense": {"base": 3}}, "defense.base=3: expected a group of settings; "),
        ({"runs": None}, "runs=null: expected a text"),
    ],
)
def test_wrong_settings_are_refused_by_key_and_value(compose: Compose, changed: dict[str, Any], line: str) -> None:
    plain = compose("data=digits")
    changed = {key: {**plain[key], **value} if key == "fleet" else value for key, value in changed.items()}
    assert refused({**plain, **changed}).startswith(line)
