"""Releases that were trained by the recipe of a run: the models that these numbers were measured for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run, canonical

EVERYTHING = Membership(how="fixed", share=1.0)
"""Releases are trained on the whole pool."""


def releases(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """For each run that has one, by its name, the folder of the release in which the same data and recipe went.

    Private data are known by a hash that is keyed with the secret of the release, which the run keeps: of several
    releases of a run, the last is found.

    Args:
        runs: those that are evaluated.
        folder: where releases are kept.
    """
    cards = {str(path.parent): _told(path) for path in sorted(folder.glob("*/card.json"))}
    wanted = {run.name: _recipe(run) for run in runs if not run.config.get("canary")}
    return {run: place for run, recipe in wanted.items() for place, told in cards.items() if told == recipe}


def _recipe(run: Run) -> Any:
    config, split = run.config, run.dataset.split
    units = split.pool if run.statement.unit != "person" or split.persons is None else np.unique(split.persons)
    network = dict(config["network"])
    defense = {**config["defense"], "name": config["names"]["defense"]}
    del defense["_target_"]
    recipe = {
        "data": [run.dataset.name, EVERYTHING.public_size(len(units)), _checksum(run)],
        "network": {"name": network.pop("_target_"), "settings": network},
        "defense": defense,
        "guard": {"name": run.made_guard.name, "settings": asdict(run.made_guard)},
        "recipe": asdict(Recipe.of(config)),
    }
    return canonical(recipe)


def _checksum(run: Run) -> str | None:
    """Checksum of these data on the card of a release; None if they are private and nothing was released."""
    kept = run.folder / "private" / "release_secret"
    if run.dataset.published or not kept.exists():
        return run.dataset.published
    return f"hmac-sha256:{Secret.load(kept).seal(run.dataset.fingerprint.encode())}"


def _told(path: Path) -> Any:
    """Recipe, data and guard on a release's card; None where the file is another thing."""
    try:
        card = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return None
    data, guard = (card.get(name) if isinstance(card, dict) else None for name in ("data", "guard"))
    if not (isinstance(data, dict) and isinstance(guard, dict)):
        return None
    told = {name: card.get(name) for name in ("network", "defense", "recipe")}
    told["data"] = [data.get("name"), data.get("records"), data.get("checksum")]
    told["guard"] = {name: guard.get(name) for name in ("name", "settings")}
    return canonical(told)
