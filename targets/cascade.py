"""Further shadows of a run, for one target each: by its recipe, behind its guard, with some memberships fixed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from safetensors.torch import load_file, save

from palisade.data.dataset import Dataset, from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership, Split
from palisade.targets import engines, progress
from palisade.targets.checkpoints import discard_partly_written, weights_path
from palisade.targets.digests import write_weights
from palisade.targets.engines import together
from palisade.targets.files import file_lock, replacing
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.guards.guard import Guard
from palisade.targets.guards.guarded import Guarded
from palisade.targets.guards.registry import label, state_path, unfitted
from palisade.targets.training import check_finite, chunks, make_fitter, parts, settled, write_fleet

CASCADE_FOLDER = "cascade"
ANCHORS_FILE = "anchors.npz"


@dataclass(frozen=True)
class Stage:
    """The shadows of one target whose memberships agree on some records, in `<run>/cascade/<target>/<keyed hash>`.

    Weights, batches and noise come from a secret of the stage's own, memberships of all other records from its coins.
    N, q, T and σ are those of the run. The folder depends on guesses at members, unlike the run's public files: only
    the owner may enter it, and its name is a keyed hash, which nobody can test a guess by.

    Args:
        run: the folder of the run.
        name: `<target>/<keyed hash>`.
    """

    run: Path
    name: str

    @classmethod
    def of(cls, run: Path, target: int, inside: Bool[np.ndarray, "pool"], outside: Bool[np.ndarray, "pool"]) -> Stage:
        """The stage of these anchors, its folder made if it is not there.

        Args:
            run: the folder of the run.
            target: the model that is attacked.
            inside: the records that all shadows train on.
            outside: those that none trains on.
        """
        content = np.packbits(np.stack([inside, outside])).tobytes()
        digest = Secret.load(run / "private" / "secret").stage(CASCADE_FOLDER).seal(content)[:16]
        stage = cls(run, f"{target}/{digest}")
        for folder in (run / CASCADE_FOLDER, stage.folder.parent, stage.folder, stage.folder / "models"):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not (stage.folder / ANCHORS_FILE).exists():
            held = io.BytesIO()
            np.savez(held, inside=inside, outside=outside)
            with replacing(stage.folder / ANCHORS_FILE) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(held.getvalue())
        return stage

    @property
    def folder(self) -> Path:
        """Folder of these shadows, inside the target's run."""
        return self.run / CASCADE_FOLDER / self.name

    @cached_property
    def secret(self) -> Secret:
        """Secret of these shadows: their draws have nothing in common with those of the run or of other stages."""
        return Secret.load(self.run / "private" / "secret").stage(f"{CASCADE_FOLDER} {self.name}")

    def membership(
        self, config: Mapping[str, Any], split: Split, models: Sequence[int]
    ) -> Bool[np.ndarray, "models pool"]:
        """Membership of pool records in each shadow: coins of the stage, but for the anchors."""
        rows = Membership(**config["membership"]).draw(split, models, self.secret)
        with np.load(self.folder / ANCHORS_FILE) as anchors:
            rows[:, anchors["inside"]] = True
            rows[:, anchors["outside"]] = False
        return rows

    def fitter(self, config: Mapping[str, Any], dataset: Dataset, models: Sequence[int]) -> Fitter:
        """Trains shadows as the run's models were trained."""
        fleet = {**config["fleet"], "keep_checkpoints": 0}
        membership = Membership(**config["membership"])
        return make_fitter({**config, "fleet": fleet}, dataset, self.secret, models, membership, settled(self.run))

    def fleets(
        self, config: Mapping[str, Any], dataset: Dataset, models: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Fleet]]:
        """Trains shadows; yields those of each stack with their numbers."""
        for part in parts(self.fitter(config, dataset, models)):
            yield (
                part.models,
                part.defense.fit(part, dataset.split, self.membership(config, dataset.split, part.models)),
            )

    def missing(self, guard: Guard, wanted: int) -> list[int]:
        """The shadows that are still to be trained, or to be put behind the guard."""
        unguarded = unfitted(self.folder, guard, range(wanted))
        return [k for k in range(wanted) if k in unguarded or not weights_path(self.folder, k).exists()]

    def train(self, config: Mapping[str, Any], guard: Guard, wanted: int) -> None:
        """Trains what is missing in the worker processes, one after the other within such a process."""
        if not self.missing(guard, wanted):
            return
        with file_lock(self.folder / ".lock", wait=True):  # another process may train the same shadows
            discard_partly_written(self.folder)
            parts = chunks(self.missing(guard, wanted), config["fleet"]["at_once"])
            items = [(config, str(self.run), self.name, guard, models) for models in parts]
            if not engines.worker.is_at_work():
                progress.begin(
                    f"{self.run.name}: trains up to {wanted} further shadows of model {self.name.split('/')[0]}"
                )
            for _ in engines.run(train_shadows, items, "auto", [self.run]):
                pass  # files are all that workers leave

    def load(self, config: Mapping[str, Any], dataset: Dataset, guard: Guard, wanted: int) -> Guarded:
        """The first shadows of the stage, behind the guard."""
        models = range(wanted)
        network = self.fitter({**config, "fleet": {"at_once": 1}}, dataset, models).initial_network(0)
        fleet = Fleet(network, [load_file(weights_path(self.folder, k)) for k in models])
        fitted = type(guard).fit is not Guard.fit
        states = [load_file(state_path(self.folder, label(guard), k)) if fitted else {} for k in models]
        return Guarded(fleet, guard, states)


def train_shadows(config: Mapping[str, Any], run: str, name: str, guard: Guard, models: Sequence[int]) -> None:
    """The work item of a process: trains some shadows of a stage and fits the guard to each, if it learns anything."""
    torch.set_num_threads(1)
    stage, dataset = Stage(Path(run), name), from_config(config)
    untrained = [k for k in models if not weights_path(stage.folder, k).exists()]
    if untrained:
        with together.processes(train_shadows_along, (config, run, name, untrained)):
            for numbers, fleet in stage.fleets(config, dataset, untrained):
                check_finite(numbers, fleet)
                write_fleet(stage.folder, numbers, fleet)
    for k in unfitted(stage.folder, guard, models):
        fitter = stage.fitter({**config, "fleet": {"at_once": 1}}, dataset, [k])
        members = dataset.split.pool[stage.membership(config, dataset.split, [k])[0]]
        one = Fleet(fitter.initial_network(k), [load_file(weights_path(stage.folder, k))])
        path = state_path(stage.folder, label(guard), k)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, save(guard.fit(one, members, fitter, dataset.split)))


def train_shadows_along(config: Mapping[str, Any], run: str, name: str, models: Sequence[int]) -> None:
    """Trains these shadows as one of several processes that train them together, and writes nothing."""
    torch.set_num_threads(1)
    for _ in Stage(Path(run), name).fleets(config, from_config(config), models):
        pass
