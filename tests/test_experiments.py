"""Every line of every experiment composes, and makes a defense, a guard, canaries and trials, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from palisade.data.canaries import Canaries
from palisade.data.split import Roles
from palisade.targets.fleet import Defense
from palisade.targets.guards.registry import make_guard
from palisade.targets.recipe import FleetSettings, Recipe
from palisade.targets.train_settings import TrainSettings
from palisade.targets.training import make_defense
from palisade.targets.tuning import Tuning, with_values

CONF_FOLDER = Path(__file__).parents[1] / "conf"


def grids(experiment: str) -> list[str]:
    content = yaml.safe_load((CONF_FOLDER / "experiment" / f"{experiment}.yaml").read_text())
    lines: list[str] = content.get("hydra", {}).get("sweeper", {}).get("grids", [""])
    return lines


GRID_LINES = [
    (path.stem, line) for path in sorted((CONF_FOLDER / "experiment").glob("*.yaml")) for line in grids(path.stem)
]


def jobs(line: str) -> list[list[str]]:
    """The overrides of each run of a line, as the sweeper splits them."""
    split: list[list[list[str]]] = BasicSweeper.split_arguments(
        OverridesParser.create().parse_overrides(line.split()), None
    )
    return split[0]


def check(settings: dict[str, Any]) -> None:
    TrainSettings.parsed(settings)
    assert isinstance(make_defense(settings["defense"]), Defense)
    make_guard(settings)
    Roles(**settings["split"])
    FleetSettings(**settings["fleet"])
    Recipe.of(settings)
    Recipe.of_bases(settings)
    if settings.get("canary"):
        Canaries(**settings["canary"])
    if settings.get("tuning"):
        for point in Tuning(**settings["tuning"]).points(settings["network"]):
            Recipe.of(with_values(settings, point))


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((CONF_FOLDER / "experiment").glob("*.yaml"))])
def test_no_sweep_claims_to_run_as_it_stands_without_m(experiment):
    words = (CONF_FOLDER / "experiment" / f"{experiment}.yaml").read_text().casefold()
    if grids(experiment) != [""]:
        assert "# without -m" not in words, "train.py refuses a sweep without -m"
        assert "without -m" not in words or "hydra.sweeper.grids=[]" in words


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((CONF_FOLDER / "experiment").glob("*.yaml"))])
def test_every_experiment_is_made_of_settings_that_exist(compose, experiment):
    TrainSettings.parsed(compose(f"experiment={experiment}", *jobs(grids(experiment)[-1])[0]))


def test_variables_of_an_experiment_are_set_on_the_command_line(compose):
    line = next(line for name, line in GRID_LINES if name == "defense_comparison" and "variables" in line)
    settings = compose("experiment=defense_comparison", "variables.augmentation=gaussian", *jobs(line)[0])
    assert settings["defense"]["kind"] == "gaussian" and "variables" not in settings


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "line"), GRID_LINES)
def test_every_line_makes_what_it_names(compose, experiment, line):
    split = jobs(line)
    for job in (split[0], split[-1])[: len(split)]:
        check(compose(f"experiment={experiment}", *job))


COMPARED_DEFENSES = {path.stem for path in (CONF_FOLDER / "defense").glob("*.yaml")} - {"rare_removal"}
"""Defenses of a table; rare examples are removed from documents alone."""
COMPARED_GUARDS = {path.stem for path in (CONF_FOLDER / "guard").glob("*.yaml")} - {"none", "memfree"}
"""Guards of a table; the filter of n-grams stands before language models alone."""


def named(group: str, lines: list[str]) -> set[str]:
    words = [word.removeprefix(f"{group}=") for line in lines for word in line.split() if word.startswith(f"{group}=")]
    return {name for word in words for name in word.split(",")}


def test_the_comparison_leaves_no_defense_and_no_guard_out():
    lines = grids("defense_comparison")
    aliases = named("guard", lines) & COMPARED_DEFENSES
    assert named("defense", lines) == COMPARED_DEFENSES - aliases
    assert named("guard", lines) == COMPARED_GUARDS


def test_the_comparison_and_its_baseline_are_about_the_same_records(compose):
    one, other = (compose(f"experiment={name}") for name in ("defense_comparison", "dp_tuned"))
    for key in ("split", "trainer", "network", "membership", "seed"):
        assert one[key] == other[key]
    tuned = [line for line in grids("dp_tuned") if "tuning=dp_sgd" in line]
    assert tuned and set(tuned) <= set(grids("defense_comparison"))
