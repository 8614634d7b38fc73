"""Settings of a training run, parsed once where they come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palisade.data.canaries import Canaries
from palisade.data.settings import check_group, check_numbers, validated
from palisade.data.split import Membership, Roles
from palisade.fields import CheckedFields, Seed, as_written
from palisade.targets.config import CONF_FOLDER, DEFAULT_ENGINE, AtEitherEnd
from palisade.targets.recipe import FleetSettings


@dataclass(frozen=True, kw_only=True)
class TrainSettings(CheckedFields):
    """Settings of a training run, parsed once where they come in.

    Nodes with a `_target_` stay mappings: what they name is made where it is needed, of a run's kept settings as well.

    Args:
        data: node of the data set; None where a release is trained, of the data of its run.
        network: node of the network.
        trainer: epochs, batch size and node of the optimizer (`Recipe`), of which a defense may have its own.
        guard: node of the guard.
        defense: node of the defense; under `base` that of another one, and under `trainer` what it needs otherwise.
        names: chosen options of network, guard, defense and canary.
        split: sizes of the roles.
        membership: which model is trained on which record.
        fleet: how many models, and how they are made.
        guesses: share of the canaries, or else records, that audits guess at either end, in (0, 0.5].
        runs: folder of runs.
        released: folder of releases.
        seed: public, of the roles.
        secret: of the run; None takes one from the operating system.
        canary: kind and number of canaries; None for none.
        tuning: group of `Tuning`; None trains with the settings as they are.
        logger: node of a Lightning logger; None for none.
        ship: folder of the run that a release is trained of; None trains a run.
        ship_unaudited: train a release of a run that was never attacked.
        release: who will hold the release.
        device: where models are trained; see `device.choose`.
        engine: node of the engine that trains them.
        plan: say what would be trained, and train nothing.
        quiet: show no progress.
        verbose: show Lightning's bars and notices, and what goes into the run's log.

    Raises:
        ValueError: if it is both quiet and verbose.
    """

    data: Mapping[str, Any] | None = None
    network: Mapping[str, Any]
    trainer: Mapping[str, Any]
    guard: Mapping[str, Any]
    defense: Mapping[str, Any]
    names: Mapping[str, str]
    split: Roles
    membership: Membership
    fleet: FleetSettings
    guesses: AtEitherEnd
    runs: str | Path
    released: str | Path
    seed: Seed = 0
    secret: str | int | float | None = None
    canary: Canaries | None = None
    tuning: Mapping[str, Any] | None = None
    logger: Mapping[str, Any] | None = None
    ship: str | Path | None = None
    ship_unaudited: bool = False
    release: Mapping[str, Any]
    device: str = "auto"
    engine: Mapping[str, Any] = field(default_factory=lambda: DEFAULT_ENGINE)
    plan: bool = False
    quiet: bool = False
    verbose: bool = False
    plain: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """All of them as they were given: what a run is named by and keeps, and what travels to other processes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quiet and self.verbose:
            raise ValueError("quiet=true: expected false with verbose=true; leave one of them out")

    @classmethod
    def parsed(cls, plain: Mapping[str, Any]) -> TrainSettings:
        """Settings as `palisade.targets.composition.composed` gives them.

        Raises:
            ValueError: if one is unknown, missing or out of range, or no data are chosen.
        """
        check_numbers({key: value for key, value in plain.items() if key != "tuning"})  # a trial may fail
        if plain.get("ship") is None and not isinstance(plain.get("data"), Mapping):
            names = ", ".join(sorted(path.stem for path in CONF_FOLDER.glob("data/*.yaml")))
            raise ValueError(f"data={as_written(plain.get('data'))}: expected a data set; choose one of {names}")
        _check_bases("defense", plain.get("defense"))
        kinds: dict[str, type[Any]] = {"split": Roles, "membership": Membership, "fleet": FleetSettings}
        groups: dict[str, Any] = {key: validated(kind, key, plain.get(key)) for key, kind in kinds.items()}
        groups["canary"] = validated(Canaries, "canary", plain["canary"]) if plain.get("canary") else None
        settings = validated(cls, "", {**plain, **groups})
        object.__setattr__(settings, "plain", plain)
        return settings


def _check_bases(key: str, node: Any) -> None:
    check_group(key, node)
    if node.get("base") is not None:
        _check_bases(f"{key}.base", node["base"])
