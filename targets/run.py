"""Run folders: what a fleet leaves on disk, and when it may be used again."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool

from palisade.data.dataset import Dataset, from_config
from palisade.data.secret import Secret
from palisade.data.sequences import Sequences
from palisade.data.split import Membership
from palisade.data.subwords import BYTES_TOKENS, PAIRS_TOKENS, TOKENS_FILE
from palisade.targets import RESULTS_VERSION
from palisade.targets.base_model import content_of, in_full, reads_places
from palisade.targets.checkpoints import checkpoint_epochs_of, discard_partly_written, weights_path
from palisade.targets.config import DEFAULT_GUESSED_SHARE
from palisade.targets.digests import removed_weights
from palisade.targets.files import file_lock, replacing, shared_lock, write, write_json
from palisade.targets.guards import Guard, NoGuard
from palisade.targets.guards.registry import guard_folder, guards_of, registered
from palisade.targets.progress import LOG_FILE
from palisade.targets.statement import Statement

IDENTITY_KEYS = ("data", "network", "defense", "trainer", "split", "membership", "seed")
"""The keys that decide what a model learns, with `canary` if there are any. More models, other workers or another guard
extend the same run, and so does the share that audits guess, which is fixed with the first model."""
OTHER_VERSION = "was trained by another version, which trains other models; remove the folder, and train it again"
PLACE_KEYS = ("root", "path", "schema")
"""Settings of where data lies, which decide nothing: their content is hashed instead."""
TOKENS_KEY = "tokens"
"""The key of documents that may name a place, whose content is hashed as well."""
READING_KEYS = ("slices", "paraphrases")
"""Keys of data that decide only how results are read, or what attackers know."""
LOCK_FILE, READERS_FILE = ".lock", ".readers"


@dataclass(frozen=True)
class Run:
    """A folder `runs/<data>/<network>-<defense>[-<canary>]-<hash>`: one data set, network, defense, kind of canary.

    Args:
        folder: where its models are.
        guard: the label of the guard that stands before them.
    """

    folder: Path
    guard: str = NoGuard.name

    @classmethod
    def of(cls, config: Mapping[str, Any], dataset: Dataset) -> Run:
        """The run that a configuration and the content of its data name."""
        parts = [config["names"]["network"], config["names"]["defense"], identity(config, dataset)]
        if canary := config.get("canary"):
            parts.insert(2, canary["kind"])
        return cls(Path(config["runs"]) / dataset.name / "-".join(parts))

    @classmethod
    def existing(cls, folder: Path) -> Run:
        """The complete run in a folder.

        Raises:
            ValueError: if there is none.
        """
        if not (run := cls(folder)).is_complete():
            raise ValueError(f"{folder} is no complete run; give a folder that train.py printed, or train it first")
        if not run.is_current():
            raise ValueError(f"{folder} {OTHER_VERSION}")
        return run

    def __reduce__(self) -> tuple[type[Run], tuple[Path, str]]:
        """Travels to other processes without what it has read, such as its data."""
        return type(self), (self.folder, self.guard)

    @property
    def name(self) -> str:
        """The folder's name, with the guard where one stands before the models."""
        return self.folder.name + ("" if self.guard == NoGuard.name else f"+{self.guard}")

    @cached_property
    def registered_guard(self) -> Guard:
        """The guard that stands before the models, with its settings."""
        return registered(self.folder, self.guard)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Plain settings that the run was trained with, from `config.yaml`."""
        loaded: dict[str, Any] = yaml.safe_load((self.folder / "config.yaml").read_text())
        return loaded

    @cached_property
    def dataset(self) -> Dataset:
        """The data that the models were trained on.

        Raises:
            ValueError: if the data have changed since.
        """
        loaded = from_config(self.config)
        if self.secret.seal(loaded.fingerprint.encode()) != (self.folder / "private" / "data").read_text():
            raise ValueError(
                f"the data of {self.folder} have changed since its models were trained; bring them back, or train anew"
            )
        return loaded

    @cached_property
    def statement(self) -> Statement:
        """The privacy claim of what is answered: that of the models, as far as the guard leaves it standing."""
        return self.registered_guard.statement_after(Statement.from_json(self._summary["statement"]), self.dataset)

    @cached_property
    def _summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return loaded

    @property
    def strength(self) -> float | None:
        """The value that a sweep over the defense varies."""
        value: str | None = self._summary["strength"]
        return None if value is None else float(value)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that know how to get around its defense or its guard."""
        return tuple(dict.fromkeys((*self._summary.get("attacks", ()), *self.registered_guard.attacks)))

    @property
    def canaries(self) -> tuple[str, ...]:
        """The kinds of canaries that its defense protects least."""
        return tuple(self._summary.get("canaries", ()))

    @property
    def guesses(self) -> float:
        """Share of the canaries, or else records, that audits of it guess at either end, as recorded before training.

        Runs from before it was recorded have the one that all had unless an evaluation said otherwise.
        """
        return float(self.config.get("guesses", DEFAULT_GUESSED_SHARE))

    @property
    def metrics(self) -> Path:
        """The file of what was measured."""
        own = self.guard == NoGuard.name
        return (self.folder if own else guard_folder(self.folder, self.guard)) / "metrics.json"

    @property
    def secret(self) -> Secret:
        """The secret of the run; only its owner can read the file."""
        return Secret.load(self.folder / "private" / "secret")

    def models(self) -> list[int]:
        """The models of a complete run."""
        complete: dict[str, int] = json.loads((self.folder / "complete.json").read_text())
        return list(range(complete["models"]))

    def missing(
        self, wanted: int, checkpoints: Sequence[int] = (), is_saved: Callable[[int], bool] | None = None
    ) -> list[int]:
        """The models to train: their final weights, or those after an epoch of `checkpoints`, are not there.

        Args:
            wanted: number of models.
            checkpoints: epochs.
            is_saved: tells of a model without weights whether what is wanted instead is there; None: nothing will do.
        """
        epochs = (*checkpoints, None)
        without = [
            k for k in range(wanted) if not all(weights_path(self.folder, k, epoch).exists() for epoch in epochs)
        ]
        return without if is_saved is None else [k for k in without if not is_saved(k)]

    def has_weights(self) -> bool:
        """True if the weights of all models are there, and were not removed once signals were saved."""
        return not self.missing(len(self.models()))

    def checkpoints(self) -> list[int]:
        """The epochs after which the weights of all models were kept."""
        return checkpoint_epochs_of(self.folder, self.models())

    def membership(self) -> Bool[np.ndarray, "models pool"]:
        """Membership of pool records in each model: recomputed from the secret, never stored."""
        return Membership(**self.config["membership"]).draw(self.dataset.split, self.models(), self.secret)

    def groups(self) -> np.ndarray:
        """Groups of models that are left out together."""
        return Membership(**self.config["membership"]).groups(self.models())

    def check_secret(self, secret: str | int | float | None) -> None:
        """Raises ValueError if the run exists with another secret than the one given."""
        path = self.folder / "private" / "secret"
        if secret is not None and path.exists() and Secret.load(path) != Secret.from_text(str(secret)):
            raise ValueError(
                f"secret=…: expected the one that {self.folder} was trained with; set it, or remove that folder"
            )

    def check_guesses(self, share: float) -> None:
        """Raises ValueError if models of the run are there, and audits of it guess another share than the one given."""
        if self.has_models() and (fixed := Run(self.folder).guesses) != share:
            raise ValueError(
                f"guesses={share}: expected {fixed}, which was fixed before {self.folder} was trained; set"
                f" guesses={fixed}, or evaluate with threat.guesses={share}, which is corrected for"
            )

    def create(self, config: Mapping[str, Any], secret: str | int | float | None, dataset: Dataset) -> None:
        """Makes the folder with its configuration and secret; an existing one is kept, without what is half written."""
        private = self.folder / "private"
        self.folder.mkdir(parents=True, exist_ok=True)
        private.mkdir(mode=0o700, exist_ok=True)
        (self.folder / "models").mkdir(exist_ok=True)
        discard_partly_written(self.folder)
        if not (private / "secret").exists():
            with replacing(private / "secret") as temporary:
                (Secret.from_system() if secret is None else Secret.from_text(str(secret))).save(temporary)
        if isinstance(dataset.preprocessing, Sequences):
            write_json(self.folder / TOKENS_FILE, dataset.preprocessing.to_json())
        if not (private / "data").exists():
            write(private / "data", self.secret.seal(dataset.fingerprint.encode()))
        self.describe(config)

    def describe(self, config: Mapping[str, Any]) -> None:
        """Keeps the configuration; of one that names the same run, columns to read results by may be others.

        The share that audits guess stays as it was when the first model was trained; if there was none, as before it
        was recorded, a later one is none that was fixed beforehand.
        """
        fixed = Run(self.folder).config if self.has_models() else config
        config = {**config, "data": {key: absolute(key, value) for key, value in config["data"].items()}}
        config["network"] = in_full(config["network"])
        public = {key: value for key, value in config.items() if key in (*decisive(config), "names", "fleet")}
        public["names"] = {group: name for group, name in config["names"].items() if group != "guard"}
        if (share := fixed.get("guesses")) is not None:
            public["guesses"] = float(share)
        write(self.folder / "config.yaml", yaml.safe_dump(public, sort_keys=False))

    def complete(self, models: int) -> None:
        """Says that all wanted models are there."""
        (self.folder / "FAILED").unlink(missing_ok=True)
        complete_models = len(self.models()) if self.is_complete() else 0
        write_json(
            self.folder / "complete.json", {"models": max(models, complete_models), "results_version": RESULTS_VERSION}
        )

    def audit(self) -> list[dict[str, Any]]:
        """Results of attacks on the whole fleet, if it was evaluated: numbers that may be published with a release."""
        metrics = json.loads(self.metrics.read_text()) if self.metrics.exists() else {}
        if metrics.get("models") != len(self.models()):
            return []
        names, numbers = ("attack", "access", "metric"), ("value", "low", "high")
        return [
            {name: row[name] for name in names}
            # Three digits: exact ratios would reveal how many records of the pool were members.
            | {name: None if row[name] is None else round(row[name], 3) for name in numbers}
            for row in metrics["results"]["rows"]
            if row["attack"] and row["model"] == row["group"] == "all"
        ]

    def is_complete(self) -> bool:
        """Completeness: all models were trained and written."""
        return (self.folder / "complete.json").exists()

    def is_current(self) -> bool:
        """A run whose models this version of the code would train again as they are."""
        completion = json.loads((self.folder / "complete.json").read_text())
        return bool(completion.get("results_version") == RESULTS_VERSION)

    def fail(self, reason: str) -> None:
        """Leaves the reason behind, if the disk has room; a run without a single model leaves but its log beside it."""
        if not self.has_models():
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in (LOCK_FILE, LOG_FILE):
                    path.unlink()
        with suppress(OSError):
            write(self.folder / "FAILED", reason + "\n")

    def has_models(self) -> bool:
        """True from the first trained model on, with which the share that audits guess is fixed."""
        return any(self.folder.glob("models/[0-9]*.safetensors")) or bool(removed_weights(self.folder / "models"))

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Exclusive right of this process to work on the run; False while another one has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / LOCK_FILE, wait=False) as free:
            yield free

    @contextmanager
    def read(self) -> Iterator[None]:
        """Keeps the run from being removed until the block ends; several processes may read it at a time.

        Raises:
            ValueError: if another process is removing it.
        """
        with shared_lock(self.folder / READERS_FILE) as free:
            if not free:
                raise ValueError(
                    f"runs={self.folder}: expected a run that no other process is removing; choose others with runs=…"
                )
            yield

    @contextmanager
    def unread(self) -> Iterator[bool]:
        """Exclusive right of this process to remove the run; False while another one reads it."""
        with shared_lock(self.folder / READERS_FILE, alone=True) as free:
            yield free


def find(root: Path, data: str | None, pattern: str | None) -> list[Run]:
    """The complete runs of a data set, or those that a folder or a pattern of folders names, once for each guard.

    Raises:
        ValueError: if neither is given, or nothing is found.
    """
    if pattern is not None:
        named = sorted(Path(path) for path in glob.glob(pattern))  # noqa: PTH207 (patterns may be absolute)
        folders = [inner for folder in named for inner in (folder, *sorted(folder.glob("*/")))]
        wanted = f"runs={pattern}"
    elif data is not None:
        folders, wanted = sorted((root / data).glob("*/")), f"data={data}"
    else:
        raise ValueError("neither data nor runs is given; add data=<name> or runs=<folder or pattern>")
    complete = [folder for folder in folders if Run(folder).is_complete()]
    if old := [folder for folder in complete if not Run(folder).is_current()]:
        raise ValueError(f"{old[0]} {OTHER_VERSION}")
    if runs := [Run(folder, guard) for folder in complete for guard in guards_of(folder)]:
        return runs
    there = ", ".join(sorted(path.name for path in root.glob("*/") if not path.name.startswith("."))) or "nothing"
    raise ValueError(f"{wanted}: expected a complete run, {root}/ holds {there}; choose one of them or train first")


def identity(config: Mapping[str, Any], dataset: Dataset) -> str:
    """Eight hexadecimal digits over everything that decides what the models learn."""
    settings = {key: config[key] for key in decisive(config)}
    if reads_places(config["network"]):
        settings["network"] = content_of(config["network"])
    left_out = (*PLACE_KEYS, TOKENS_KEY, *READING_KEYS)
    settings["data"] = {key: value for key, value in config["data"].items() if key not in left_out}
    text = json.dumps([canonical(settings), dataset.fingerprint, RESULTS_VERSION], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def decisive(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a configuration that decide what its models learn."""
    return (*IDENTITY_KEYS, "canary") if config.get("canary") else IDENTITY_KEYS


def absolute(key: str, value: Any) -> Any:
    """Places in full, so that a run finds its data from any folder."""
    named = key in PLACE_KEYS or (key == TOKENS_KEY and value not in (BYTES_TOKENS, PAIRS_TOKENS))
    return str(Path(value).expanduser().resolve()) if named and value is not None else value


def canonical(value: Any) -> Any:
    """Plain values in which 1 and 1.0 agree, as do a list and a tuple."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else str(value)
    return value
