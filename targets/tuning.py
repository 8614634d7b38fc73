"""Tuning: which settings are tried before a fleet is trained with the best of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from palisade.data.settings import check_numbers, validated
from palisade.fields import CheckedFields, Count, as_written
from palisade.targets.config import flat
from palisade.targets.recipe import FleetSettings

TUNABLE_GROUPS = ("network", "defense", "trainer")
EPSILON_SETTINGS = ("epsilon", "delta", "noise_multiplier", "queries")
"""Settings that decide ε: trials that differ in it do not cost what the chosen one does."""


@dataclass(frozen=True, kw_only=True)
class Tuning(CheckedFields):
    """A search for settings by the accuracy that they give on validation records.

    Args:
        models: trained in each trial, at least 1; their mean accuracy decides.
        grid: the values to try, nested like the settings themselves; every combination is a trial.

    Raises:
        ValueError: if there is nothing to try, or nothing that may be tuned.
    """

    models: Annotated[Count, Field(examples=[4])]
    grid: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.values:
            raise ValueError(
                f"grid={dict(self.grid)}: expected values to try; list some, such as"
                " tuning.grid.defense.max_grad_norm=[1]"
            )
        for key, listed in self.values.items():
            setting = f"grid.{key}={as_written(listed)}"
            if key.split(".")[0] not in TUNABLE_GROUPS:
                raise ValueError(f"{setting}: cannot be tuned, expected one of {', '.join(TUNABLE_GROUPS)}; remove it")
            if "." not in str(key):
                raise ValueError(f"{setting}: expected a single setting; list values of one, such as {key}.lr=[0.1]")
            if key.split(".")[-1] in EPSILON_SETTINGS:
                raise ValueError(
                    f"{setting}: expected none of {', '.join(EPSILON_SETTINGS)}, which decide ε; sweep over it instead"
                )
            if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
                raise ValueError(f"{setting}: expected a list of values to try; give such as [0.1,1]")
            check_numbers({f"grid.{key}": [value for value in listed if value == value]})  # NaN loses as a trial

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values to try of each setting, such as `defense.max_grad_norm`."""
        return dict(flat(self.grid))

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination."""
        return [dict(zip(self.values, chosen, strict=True)) for chosen in itertools.product(*self.values.values())]

    @property
    def trainings(self) -> int:
        """Number of models in all trials: each record may be in all of them."""
        return self.models * len(self.points)


def trainings(config: Mapping[str, Any]) -> int:
    """Number of models that a configuration trains: its fleet, and the trials that it is tuned by."""
    fleet = validated(FleetSettings, "fleet", config["fleet"])
    return fleet.models + (validated(Tuning, "tuning", config["tuning"]).trainings if config.get("tuning") else 0)


def with_values(settings: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings with other values of some of them.

    Raises:
        ValueError: if one is unknown.
    """
    tuned_settings: dict[str, Any] = copy.deepcopy(dict(settings))
    for key, value in point.items():
        node: Any = tuned_settings
        *path, last = key.split(".")
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            chosen = tuned_settings["names"].get(path[0], "of your own") if path else "nothing"
            written = f"tuning.grid.{key}={as_written(value)}"
            raise ValueError(f"{written}: no such setting, expected one of {path[0]}={chosen}; remove it")
        node[last] = value
    return tuned_settings
