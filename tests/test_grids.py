"""A sweep hands out what it composed, and composes nothing twice."""

from __future__ import annotations

from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydra_plugins.grids import ComposedLoader

CONF_FOLDER = str(Path(__file__).parents[1] / "conf")


def test_each_configuration_is_handed_out_once_and_others_are_composed():
    with initialize_config_dir(CONF_FOLDER, version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("train", [], run_mode=RunMode.MULTIRUN)
        config = hydra.config_loader.load_sweep_config(master, ["seed=1"])
        loader = ComposedLoader(hydra.config_loader, [["seed=1"]], [config])
        assert loader.load_sweep_config(master, ["seed=1"]) is config
        again, other = (loader.load_sweep_config(master, [word]) for word in ("seed=1", "seed=2"))
    assert again is not config and again == config  # a launcher writes into what it is handed
    assert other.seed == 2
