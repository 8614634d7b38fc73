"""A network of one's own is named by its class alone, or by `network=own`, and gets only what was set for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Compose = Callable[..., dict[str, Any]]
OWN = "network._target_=my_package.MyNet"


@pytest.mark.parametrize(
    ("overrides", "network"),
    [
        ([OWN], {}),
        ([OWN, "+network.width=64"], {"width": 64}),
        ([OWN, "network.hidden=[128]"], {"hidden": [128]}),
        (["network=cnn", OWN], {}),
        (["network=own", OWN, "++network.width=64"], {"width": 64}),
    ],
)
def test_nothing_of_the_network_that_it_replaces_is_passed(
    compose: Compose, overrides: list[str], network: dict[str, Any]
) -> None:
    settings = compose("data=digits", *overrides)
    assert settings["network"] == {"_target_": "my_package.MyNet", **network}
    assert settings["names"]["network"] == "own"


def test_other_networks_keep_their_settings(compose: Compose) -> None:
    settings = compose("data=digits", "network.hidden=[32]")
    assert settings["network"] == {"_target_": "targets.networks.MLP", "hidden": [32], "activation": "relu"}
    assert settings["names"]["network"] == "mlp"
