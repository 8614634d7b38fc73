"""Every YAML composes, and what it makes trains a step or scores a fleet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.utils import instantiate

from attacks import Attack, View
from datamodules.records import Source

CONF = Path(__file__).parents[2] / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("experiment", names("experiment"))
def test_experiments_compose(compose, experiment):
    settings = compose(f"experiment={experiment}")
    assert settings["data"]["_target_"]


@pytest.mark.parametrize("data", names("data"))
def test_data_sources_compose(compose, data):
    given = {"csv": ["data.path=a.csv", "data.label=b"], "npz": ["data.path=a.npz"]}.get(data, [])
    assert isinstance(instantiate(compose(f"data={data}", *given)["data"]), Source)


@pytest.mark.parametrize("network", [name for name in names("network") if name != "own"])
def test_networks_answer(compose, network):
    import torch

    settings = compose("data=digits", f"network={network}")
    made = instantiate(settings["network"], shape=(1, 8, 8), classes=10)
    assert made(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("attack", names("attack"))
def test_attacks_score_and_their_key_is_their_name(attack):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = hydra_compose("evaluate", overrides=[f"attack=[{attack}]"]).attack
    assert list(node) == [attack]
    made = instantiate(node[attack])
    assert isinstance(made, Attack) and made.name == attack
    rng = np.random.default_rng(0)
    membership = rng.random((6, 20)) < 0.5
    view = View(logits=rng.normal(size=(6, 20, 3)), labels=rng.integers(0, 3, 20), membership=membership)
    assert made.score(view).shape == (6, 20)
