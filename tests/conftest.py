"""What all tests share: one thread, runs in a temporary folder, configurations composed as the commands do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Composes the configuration of `train.py` with overrides, as plain values; runs go to a temporary folder."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    def composed(*overrides: str, runs: Path = tmp_path / "runs") -> dict[str, Any]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = hydra_compose("train", overrides=[f"runs={runs}", *overrides], return_hydra_config=True)
        chosen = config.hydra.runtime.choices
        names = {group: chosen[group] for group in ("network", "defense", "canary")}
        with open_dict(config):
            del config["hydra"]
        settings: Any = OmegaConf.to_container(config, resolve=True)
        return {**settings, "names": names}

    return composed
