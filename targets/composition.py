"""Settings of a run as Hydra composes them: plain values, with the names of the options that were chosen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from palisade.targets.base_model import check_places
from palisade.targets.config import CONF_FOLDER
from palisade.targets.progress import one_line_warnings

NAMED_GROUPS = ("network", "guard", "defense", "canary")
"""Groups whose chosen option is kept by its name."""
RELEASE_SETTINGS = (
    *("ship", "ship_unaudited", "guard", "release", "released", "secret"),
    *("device", "engine", "quiet", "verbose"),
)
"""Settings that a release takes; all others are those of its run."""


def composed(*overrides: str) -> dict[str, Any]:
    """Settings that `python train.py <overrides>` composes: for `train_run`, from a program."""
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    chosen = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    return _named(config, chosen, overrides)


def settings_of(config: DictConfig) -> dict[str, Any]:
    """Settings of the job that Hydra runs now, with warnings of those that change nothing.

    Raises:
        ValueError: if its network is read from a place that is not there: before data are read or torch is imported.
    """
    job = HydraConfig.get()
    settings = _named(config, job.runtime.choices, job.overrides.task)
    check_places(settings["network"])
    warn_of_unused(settings, job.overrides.task)
    return settings


def _named(config: DictConfig, chosen: Mapping[str, str | None], overrides: Sequence[str]) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings.pop("variables", None)  # what referred to them is resolved
    return with_own_network({**settings, "names": names(chosen, settings, overrides)}, overrides)


def names(chosen: Mapping[str, str | None], settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """The chosen options by name; an alias that only brings a guard, such as defense=memguard, is no defense.

    Raises:
        ValueError: if a list stands where one option is chosen.
    """
    if absent := next((group for group in NAMED_GROUPS if group not in chosen), None):
        listed = next((word for word in overrides if word.startswith(f"{absent}=")), f"{absent}=[]")
        raise ValueError(
            f"{listed}: expected one name; give it, leave {absent} out, or list some without brackets, with -m before"
            " the settings, for a run of each"
        )
    named = {group: str(chosen[group]) for group in NAMED_GROUPS}
    plain = settings["defense"] == {"_target_": "palisade.defenses.none.NoDefense"}
    return named | ({"defense": "none"} if plain else {})


def with_own_network(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`network._target_=my_package.MyNet` alone is `network=own`: settings of the network it replaces are left out."""
    set_keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "network._target_" not in set_keys or settings["names"]["network"] == "own":
        return settings
    own = tuple(key.split(".")[1] for key in set_keys if key.startswith("network."))
    network = {key: value for key, value in settings["network"].items() if key in own}
    return {**settings, "network": network, "names": {**settings["names"], "network": "own"}}


def warn_of_unused(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Warns of settings of the trainer that the defense puts others in the place of: they change nothing."""
    defense = settings["defense"]
    own = (defense.get("trainer") or {}) if isinstance(defense, Mapping) else {}
    for override in overrides:
        group, _, key = override.lstrip("+").partition("=")[0].partition(".")
        if group == "trainer" and key.partition(".")[0] in own:
            with one_line_warnings():
                warnings.warn(
                    f"{override} changes nothing: defense={settings['names']['defense']} has its own, set"
                    f" defense.trainer.{key}",
                    stacklevel=1,
                )


def check_shipped(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raises ValueError for a setting beside `ship=<run>` that the release would not have."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if unused := [key for key in keys if key.partition(".")[0] not in RELEASE_SETTINGS]:
        raise ValueError(
            f"{unused[0]}: expected no such setting beside ship={settings['ship']}, which is trained as its run was;"
            " leave it out, or train a run with it and ship that"
        )
