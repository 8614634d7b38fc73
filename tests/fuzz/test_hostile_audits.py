"""Hostile settings of audits and of the search: whatever stands there, it is refused in one line or works."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from refusal import refusal
from safetensors.torch import save_file
from test_hostile_settings import EDGE_VALUES, NESTED_VALUES, keys_of, with_value

from palisade.commandline import EXIT_GATE_EXCEEDED
from palisade.evaluate import evaluate_runs

pytestmark = pytest.mark.slow

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SIDE_SETTINGS = ["members=in.npz", "nonmembers=out.npz"]
AUDIT_SETTINGS = {
    "outputs": ["audit=outputs", "members=answers.npz", "nonmembers=others.npz"],
    "model": ["audit=model", "model=net.safetensors", "network._target_=asked.Net", *SIDE_SETTINGS],
    "endpoint": ["audit=endpoint", "endpoint=asked.predict", *SIDE_SETTINGS],
    "records": ["audit=records", "records=in.npz", "nonmembers=out.npz", "endpoint=asked.predict"],
}
SEARCH_SETTINGS = [
    "search=frontier", "data=digits", "attack=[loss]", "search.trials=1", "search.train.network=linear",
    "search.train.fleet.models=3", "+search.train.fleet.workers=1", "+search.train.trainer.epochs=1",
]  # fmt: skip
TRIAL_FAILED = 1


class Net(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)


@pytest.fixture
def audited(tmp_path, monkeypatch) -> Path:
    """Records on two sides, a model of them, and code that asks it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for side, answers, count in (("in", "answers", 60), ("out", "others", 80)):
        labels, features = rng.integers(3, size=count), rng.normal(size=(count, 4)).astype(np.float32)
        np.savez(f"{side}.npz", features=features, labels=labels)
        np.savez(f"{answers}.npz", logits=features[:, :3], labels=labels)
    save_file(Net().state_dict(), "net.safetensors")
    module: Any = ModuleType("asked")
    module.Net, module.predict = Net, lambda x: np.full((len(x), 3), 1 / 3)
    monkeypatch.setitem(sys.modules, "asked", module)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kind", AUDIT_SETTINGS)
def test_every_hostile_setting_of_an_audit_is_refused_or_works(audited, kind):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("evaluate", AUDIT_SETTINGS[kind]), resolve=True)
    node = {**config, "attack": {"loss": config["attack"]["loss"]}, "command": "python evaluate.py"}
    evaluate_runs(node)
    before = {path: path.read_bytes() for path in audited.rglob("*.npz")}
    refused = 0
    for key in keys_of(node, ""):
        for value in (*EDGE_VALUES, *NESTED_VALUES):
            if key.split(".")[0] not in ("attack", "command", "reports"):
                refused += refused_or_ended(with_value(node, key, value), EXIT_GATE_EXCEEDED)
    assert refused > 100
    assert {path: path.read_bytes() for path in audited.rglob("*.npz")} == before


@pytest.mark.slow
def test_every_hostile_setting_of_a_search_is_refused_or_works(tmp_path):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("evaluate", SEARCH_SETTINGS), resolve=True)
    node = {**config, "root": str(tmp_path / "runs"), "reports": str(tmp_path / "reports"), "command": "evaluate.py"}
    node["search"]["space"] = {"l2": {"weight_decay": {"low": 1e-5, "high": 1e-1, "log": True}}}
    refused = 0
    for key in keys_of(node, "search"):
        for value in (*EDGE_VALUES, *NESTED_VALUES):
            if not (key.endswith(("trials", "models", "epochs")) and value in (10**30, 1e308)):  # endless
                refused += refused_or_ended(with_value(node, key, value), TRIAL_FAILED)
    assert refused > 100


def refused_or_ended(settings: dict[str, Any], code: int) -> bool:
    """Refusal of settings; those that are taken may end with an exit code."""
    try:
        return refusal(lambda: evaluate_runs(settings), longest=2000) is not None
    except SystemExit as ended:
        assert ended.code == code
        return False
