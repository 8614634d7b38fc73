"""Tuning: which settings are tried before a fleet is trained with the best of them."""

from __future__ import annotations

import copy
import itertools
import math
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
HIDDEN_LAYERS = "network.hidden"
"""The setting of an MLP that holds the widths of its hidden layers."""
TUNING_RUNS_KEY = "tuning_runs"
"""The setting of a defense that says how many trainings it was tuned by, for its statement."""
EPSILON_SETTINGS = ("epsilon", "delta", "noise_multiplier", "queries")
"""Settings that decide ε: trials that differ in it do not cost what the chosen one does."""


@dataclass(frozen=True, kw_only=True)
class Tuning(CheckedFields):
    """A search for settings by the accuracy that they give on validation records.

    Trials are halved: all train one model, the better half of them a second one, the better half of these as many
    again, and so on (successive halving: Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and
    Hyperparameter Optimization"). How many models that takes depends on no record.

    Args:
        models: trained in each trial that is never stopped, at least 1; their mean accuracy decides.
        grid: the values to try, nested like the settings themselves; every combination is a trial.
        linear: whether all of them are tried without hidden layers, too, where the network is an MLP.

    Raises:
        ValueError: if there is nothing to try, or nothing that may be tuned.
    """

    models: Annotated[Count, Field(examples=[4])]
    grid: Mapping[str, Any]
    linear: bool = False

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

    def points(self, network: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every combination; the network as it was chosen comes first.

        Args:
            network: the settings of the run's network.
        """
        values, hidden = self.values, network.get("hidden")
        is_mlp = str(network.get("_target_")).endswith("networks.MLP")
        if self.linear and is_mlp and hidden and HIDDEN_LAYERS not in values:
            values = {HIDDEN_LAYERS: [hidden, []], **values}
        return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]

    @property
    def rounds(self) -> list[int]:
        """Number of models of each trial that is left at the end of each round, the last with all of them."""
        doubled = [2**k for k in range(self.models.bit_length())]
        return doubled if doubled[-1] == self.models else [*doubled, self.models]

    def budgets(self, trials: int) -> list[int]:
        """Number of models that so many trials train, in falling order: each round halves those that are left."""
        models, left = [0] * trials, trials
        for reached in self.rounds:
            models[:left] = [reached] * left
            left = math.ceil(left / 2)
        return models


def trainings(config: Mapping[str, Any]) -> int:
    """Number of models that a configuration trains: its fleet, and the trials that it is tuned by."""
    models = validated(FleetSettings, "fleet", config["fleet"]).models
    if not config.get("tuning"):
        return models
    tuning = validated(Tuning, "tuning", config["tuning"])
    return models + sum(tuning.budgets(len(tuning.points(config["network"]))))


def is_tuned(defense: Mapping[str, Any] | None) -> bool:
    """True if a defense, or the one that it builds on, was tuned by trainings that its statement counts."""
    return defense is not None and bool(defense.get(TUNING_RUNS_KEY) or is_tuned(defense.get("base")))


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
