"""Releases of runs: which folder holds the release that was trained by a run's recipe on the same data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.base_model import on_card
from palisade.targets.guards.registry import guards_of
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run, canonical

WHOLE_POOL = Membership(how="fixed", share=1.0)
"""Membership of a release: the whole pool."""


def releases(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Folder of the release with the same data and recipe, for each run that has one, by the run's name.

    Private data are known by a hash that is keyed with the secret of the release, which the run keeps: of several
    releases of a run, the last counts.

    Args:
        runs: those that are evaluated.
        folder: where releases are kept.
    """
    cards = {str(path.parent): _recipe_on_card(path) for path in sorted(folder.glob("*/card.json"))}
    wanted = {run.name: _recipe(run) for run in runs if not run.config.get("canary")}
    return {run: place for run, recipe in wanted.items() for place, card in cards.items() if card == recipe}


def run_of(release: Path, root: Path) -> Run:
    """The run by whose recipe a release was trained, on the same data, behind the same guard.

    Args:
        release: its folder.
        root: where runs are kept.

    Raises:
        ValueError: if no run there is it.
    """
    card = _recipe_on_card(release / "card.json")
    name = None if card is None else str(card["data"][0])
    folders = (
        [] if name is None else [folder for folder in sorted((root / name).glob("*/")) if Run(folder).is_complete()]
    )
    for run in (Run(folder, guard) for folder in folders for guard in guards_of(folder)):
        if run.is_current() and not run.config.get("canary") and _recipe(run) == card:
            return run
    raise ValueError(
        f"run={release}: expected a release whose run is in {root}/, and none there has its data and recipe; give"
        " root=<folder of runs>, or the folder of the run"
    )


def _recipe(run: Run) -> Any:
    config, split = run.config, run.dataset.split
    units = split.pool if run.statement.unit != "person" or split.persons is None else np.unique(split.persons)
    network = on_card(config["network"])
    defense = {**config["defense"], "name": config["names"]["defense"]}
    del defense["_target_"]
    recipe = {
        "data": [run.dataset.name, WHOLE_POOL.public_size(len(units)), _checksum(run)],
        "network": {"name": network.pop("_target_"), "settings": network},
        "defense": defense,
        "guard": {"name": run.registered_guard.name, "settings": asdict(run.registered_guard)},
        "recipe": asdict(Recipe.of(config)),
    }
    return canonical(recipe)


def _checksum(run: Run) -> str | None:
    """Checksum of these data on the card of a release; None if they are private and nothing was released."""
    secret_file = run.folder / "private" / "release_secret"
    if run.dataset.published or not secret_file.exists():
        return run.dataset.published
    return f"hmac-sha256:{Secret.load(secret_file).seal(run.dataset.fingerprint.encode())}"


def _recipe_on_card(path: Path) -> Any:
    """Recipe, data and guard on a release's card; None where the file is another thing."""
    try:
        card = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return None
    data, guard = (card.get(name) if isinstance(card, dict) else None for name in ("data", "guard"))
    if not (isinstance(data, dict) and isinstance(guard, dict)):
        return None
    recipe = {name: card.get(name) for name in ("network", "defense", "recipe")}
    recipe["data"] = [data.get("name"), data.get("records"), data.get("checksum")]
    recipe["guard"] = {name: guard.get(name) for name in ("name", "settings")}
    return canonical(recipe)
