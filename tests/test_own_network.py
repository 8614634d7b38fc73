"""A network of one's own is named by its class alone, gets only what was set for it, and is tried before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import call

Compose = Callable[..., dict[str, Any]]
OWN_NETWORK = "network._target_=my_package.MyNet"


@pytest.mark.parametrize(
    ("overrides", "network"),
    [
        ([OWN_NETWORK], {}),
        ([OWN_NETWORK, "+network.width=64"], {"width": 64}),
        ([OWN_NETWORK, "network.hidden=[128]"], {"hidden": [128]}),
        (["network=cnn", OWN_NETWORK], {}),
        (["network=own", OWN_NETWORK, "++network.width=64"], {"width": 64}),
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
    assert settings["network"] == {"_target_": "palisade.targets.networks.MLP", "hidden": [32], "activation": "relu"}
    assert settings["names"]["network"] == "mlp"


NETWORK_MODULE = """
import sys
from torch import nn

class Mine(nn.Sequential):
    def __init__(self, shape, classes, inputs=64, outputs=10):
        super().__init__(nn.Flatten(), nn.Linear(inputs, outputs))

class Pair(Mine):
    def forward(self, x):
        return super().forward(x), x

class Raising(Mine):
    def __init__(self, shape, classes):
        raise KeyError("width")

class Leaving(Mine):
    def __init__(self, shape, classes):
        sys.exit(0)

def nothing(shape, classes):
    return None
"""
INPUTS_CLAUSE = "expected logits (2, 10) of float32 (2, 1, 8, 8), and it "
REFUSED_NETWORKS = {
    "inputs": (
        "networks.Mine +network.inputs=63",
        f"{INPUTS_CLAUSE}raised RuntimeError: mat1 and mat2 shapes cannot be",
    ),
    "outputs": (
        "networks.Mine +network.outputs=4",
        f"{INPUTS_CLAUSE}returned float32 (2, 4); correct its forward",
    ),
    "private": ("networks.Mine +network.outputs=4 defense=dp_sgd", "returned float32 (2, 4); correct its forward"),
    "pair": ("networks.Pair", f"{INPUTS_CLAUSE}returned a tuple; correct its forward"),
    "raising": ("networks.Raising", "cannot be made with shape=(1, 8, 8), classes=10 (KeyError: 'width'); fix"),
    "leaving": ("networks.Leaving", "classes=10 (SystemExit: 0); fix"),
    "setting": (
        "networks.Mine +network.depth=1",
        "network.depth=1: no such setting, expected one of inputs, outputs; remove it",
    ),
    "arguments": (
        "torch.nn.Linear network=own",
        "network.in_features: not given, ",
    ),
    "nothing": ("networks.nothing", "expected a class of torch.nn.modules.module.Module"),
    "nowhere": (
        "nowhere.Net",
        "cannot be imported (ModuleNotFoundError: No module named 'nowhere'); give such as my_pa",
    ),
    "no class": ("networks.NETWORKS", "cannot be imported (AttributeError: module 'networks' has no attribute 'NETWO"),
    "no call": (
        "networks.__name__",
        "network._target_=networks.__name__: expected a class; give such as my_package.MyClass",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED_NETWORKS)
def test_what_cannot_be_trained_is_refused_before_a_run_exists(tmp_path: Path, case: str) -> None:
    (tmp_path / "networks.py").write_text(NETWORK_MODULE)
    words, message = REFUSED_NETWORKS[case]
    network, *others = words.split()
    done = call("train.py", "data=digits", f"network._target_={network}", *others, folder=tmp_path, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: network.") and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "runs" / "digits").exists()
