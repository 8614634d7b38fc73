"""The life of a run that was asked for: checked, then cached, or tried out and trained under its lock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palisade.commandline import one_line
from palisade.data.dataset import Dataset
from palisade.data.queries import augmented
from palisade.targets import engines, progress
from palisade.targets.checkpoints import checkpoint_epochs, weights_path
from palisade.targets.digests import is_removed, remove_weights
from palisade.targets.files import write_json
from palisade.targets.guards import Guard, NoGuard
from palisade.targets.guards.registry import (
    check_answers,
    check_guard,
    guards_of,
    label,
    make_guard,
    register,
    registered,
    unfitted,
)
from palisade.targets.progress import RunLog
from palisade.targets.recipe import FleetSettings, Recipe
from palisade.targets.run import Run
from palisade.targets.signal_saver import SignalSaver, save_signals
from palisade.targets.train_settings import TrainSettings
from palisade.targets.trial_outcomes import TuningOutcome


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run with what is wanted of it: so many models, these checkpoints, behind this guard.

    Args:
        settings: of the run, those that tuning chose among them.
        dataset: its data.
        run: where it is kept.
        guard: what stands before its models.
        checkpoints: the epochs after which weights are kept.
        tuning: the trials that the settings were chosen by; None if there were none.
        saver: of signals; None where only weights are kept.
    """

    settings: TrainSettings
    dataset: Dataset
    run: Run
    guard: Guard
    checkpoints: list[int]
    tuning: TuningOutcome | None = None
    saver: SignalSaver | None = None

    @classmethod
    def of(cls, settings: TrainSettings, dataset: Dataset) -> Job:
        """The job that settings ask for.

        Raises:
            ValueError: if a setting cannot be used, or differs from what the run was trained with.
        """
        run = Run.of(settings.plain, dataset)
        recipe = Recipe.of(settings.plain)
        run.check_secret(settings.secret)
        run.check_guesses(settings.guesses)
        guard = make_guard(settings.plain)
        check_guard(guard, len(dataset.classes))
        check_answers(guard, dataset.positional)
        for role in sorted(guard.roles):
            dataset.split.require(role, who=f"guard={guard.name}")
        check_keep(settings.fleet, run, guard, dataset)
        return cls(
            settings=settings,
            dataset=dataset,
            run=run,
            guard=guard,
            checkpoints=checkpoint_epochs(recipe.epochs, settings.fleet.keep_checkpoints),
        )

    @property
    def models(self) -> int:
        """Number of models that are wanted."""
        return self.settings.fleet.models

    @property
    def missing(self) -> list[int]:
        """The models that are still to be trained."""
        signals_alone = self.settings.fleet.keep == "signals"
        return self.run.missing(self.models, self.checkpoints, self._is_saved if signals_alone else None)

    @property
    def unsaved(self) -> list[int]:
        """The models whose weights are there, with signals still to be saved or these weights still to be removed."""
        if self.saver is None:
            return []
        signals_alone = self.settings.fleet.keep == "signals"
        there = set(range(self.models)) - set(self.run.missing(self.models))
        return [k for k in sorted(there) if signals_alone or not self._is_saved(k)]

    @property
    def unfitted(self) -> list[tuple[Guard, int]]:
        """Every guard of the run, this one included, with each model that it is still to be fitted to."""
        folder = self.run.folder
        others = [registered(folder, other) for other in guards_of(folder) if other != label(self.guard)]
        return [(guard, k) for guard in (self.guard, *others) for k in unfitted(folder, guard, range(self.models))]

    @property
    def is_cached(self) -> bool:
        """True if nothing is left to do, which needs no torch to find out."""
        known = label(self.guard) in guards_of(self.run.folder)
        done = not self.missing and not self.unfitted and not self.unsaved
        return done and self.run.is_complete() and known

    def outcome(self, status: str) -> dict[str, Any]:
        """The run's folder and what was done: trained, cached or skipped."""
        return {"folder": str(self.run.folder), "status": status}

    def cost(self) -> dict[str, Any]:
        """Cost of the missing models: their number, minutes and megabytes."""
        from palisade.targets.plan import cost

        return cost(self.run, self.settings.plain, self.dataset, self.missing)

    def reuse(self) -> dict[str, Any]:
        """Reports the models of a cached run; only how its results are read may be new."""
        progress.report(self.run.name, self.models, cached=True)
        self.run.describe(self.settings.plain)
        self._keep_trials()
        return self.outcome("cached")

    def try_out(self) -> Mapping[str, str] | None:
        """Decisions of the defense for all models, made before the first; None if they were made already.

        Raises:
            ValueError: if network, defense, optimizer or batch size cannot be used.
        """
        from palisade.targets.training import DECISIONS_FILE, try_out

        if (self.run.folder / DECISIONS_FILE).exists():
            return None
        return try_out(self.settings.plain, self.dataset, self.settings.membership)

    def train(self, settled: Mapping[str, str] | None) -> dict[str, Any]:
        """Trains what is missing, unless another process is at it; a failure is kept in the folder of the run."""
        with self.run.lock() as mine:
            if not mine:
                return self.outcome("skipped")
            try:
                with self.log.timed("complete"):
                    self.train_models(self.begin(settled))
                    self.finish()
            except Exception as error:
                self.fail(one_line(error))
                raise
        return self.outcome("trained")

    def begin(self, settled: Mapping[str, str] | None) -> list[tuple[Any, ...]]:
        """Makes the folder of the run, which this process has locked.

        Args:
            settled: decisions of the defense for all models, made before the first; None if they were made already.

        Returns:
            Chunks of models that are not trained yet, each as the arguments of `train_models`.
        """
        self.run.create(self.settings.plain, self.settings.secret, self.dataset)
        self._keep_trials()
        if settled is not None:
            self._settle(settled)
        # Anew: another process may have worked on it until now, or have been killed while it wrote.
        missing = self.missing
        progress.report(self.run.name, self.models - len(missing), cached=True)
        self.log.start(self.models, len(missing))
        return self._chunks(missing)

    def train_models(self, items: Sequence[tuple[Any, ...]]) -> None:
        """Trains what `begin` has given."""
        if items:
            from palisade.targets.training import train_models

            for _ in engines.run(train_models, items, self.settings.fleet.workers, [self.run.folder]):
                pass  # files are all that workers leave

    @property
    def needs_workers(self) -> bool:
        """True if more is left to do, once all models are trained, than to say so."""
        return bool(self.unsaved or self.unfitted)

    def finish(self) -> None:
        """Completes the run whose models are all trained."""
        self._save_signals(self.unsaved)
        self._fit_guards(self.unfitted)
        register(self.run.folder, self.guard)
        self.run.complete(self.models)

    def fail(self, reason: str) -> None:
        """Keeps the reason in the folder of the run."""
        self.run.fail(reason)
        self.log.add("failed; the reason is in FAILED")

    @property
    def log(self) -> RunLog:
        """Log of the run."""
        return RunLog(folder=self.run.folder, verbose=self.settings.verbose)

    def _keep_trials(self) -> None:
        if self.tuning is not None:
            self.tuning.write(self.run.folder)

    def _settle(self, settled: Mapping[str, str]) -> None:
        from palisade.targets.training import DECISIONS_FILE

        write_json(self.run.folder / DECISIONS_FILE, dict(settled))
        if settled.get("per_record", "fast") != "fast":
            progress.say(f"{self.run.name}: per_record={settled['per_record']}, which is slower: {settled['reason']}")

    @property
    def _recipe(self) -> Mapping[str, Any]:
        """The settings for workers, which have no use for the text of the secret."""
        return {**self.settings.plain, "secret": None}

    def _chunks(self, missing: list[int]) -> list[tuple[Any, ...]]:
        from palisade.targets.training import chunks, for_device

        if not missing:
            return []
        sharing = engines.sharing(self.settings.fleet.workers)
        config = for_device(self._recipe, self.dataset, self.run.folder, processes=sharing)
        parts = chunks(missing, config["fleet"]["at_once"])
        return [(config, str(self.run.folder), self.run.name, models, self.saver) for models in parts]

    def _is_saved(self, model: int) -> bool:
        return self.saver is not None and self.saver.is_saved(self.run.folder, model)

    def _save_signals(self, unsaved: list[int]) -> None:
        """Of models that were trained before; weights go when the signals of all are there, and nobody reads them."""
        if self.saver is None or not unsaved:
            return
        items = [(self._recipe, str(self.run.folder), self.saver, [k]) for k in unsaved]
        for _ in engines.run(save_signals, items, self.settings.fleet.workers, [self.run.folder]):
            pass
        if self.settings.fleet.keep == "signals":
            with self.run.unread() as unread:
                if not unread:
                    raise ValueError(
                        f"fleet.keep=signals: expected {self.run.folder} not being evaluated by another process, which"
                        " may read its weights; wait until it has ended"
                    )
                self.saver.remove_others(self.run.folder, range(self.models))
                for k in unsaved:
                    remove_weights(weights_path(self.run.folder, k))

    def _fit_guards(self, unguarded: list[tuple[Guard, int]]) -> None:
        if unguarded:
            from palisade.targets.training import fit_guard

            items = [(self._recipe, str(self.run.folder), guard, [k]) for guard, k in unguarded]
            for _ in engines.run(fit_guard, items, self.settings.fleet.workers, [self.run.folder]):
                pass


def check_keep(fleet: FleetSettings, run: Run, guard: Guard, dataset: Dataset) -> None:
    """Raises ValueError if signals that are asked for cannot be, or weights that are not kept would be needed.

    Args:
        fleet: what is to be kept.
        run: whose models it is about.
        guard: that is to stand before them.
        dataset: its data.
    """
    _check_covers(fleet, run)
    if fleet.keep == "weights":
        return
    for query in fleet.queries:
        augmented(query, dataset.x[:0], "fleet.queries")
    if fleet.keep == "both":
        return
    if guards := [name for name in (*guards_of(run.folder), label(guard)) if name != NoGuard.name]:
        raise ValueError(
            f"fleet.keep=signals: expected both with guard={guards[0]}, which stands before the models themselves;"
            " choose it"
        )
    if any(run.folder.glob("models/[0-9]*.epoch*.safetensors")):
        raise ValueError(
            f"fleet.keep=signals: expected both, since {run.folder} holds checkpoints, which are weights; choose it"
        )


def _check_covers(fleet: FleetSettings, run: Run) -> None:
    """Raises ValueError if of some models of a complete run another thing would be kept than of the rest."""
    there = len(run.models()) if run.is_complete() else 0
    if there <= fleet.models:
        return
    if fleet.keep == "signals":
        differ = len(run.missing(there)) < there
    else:
        differ = any(is_removed(weights_path(run.folder, k)) for k in range(fleet.models))
    if differ:
        raise ValueError(
            f"fleet.models={fleet.models}: expected {there}, all models of {run.folder}, since"
            f" fleet.keep={fleet.keep} changes what is there of each; set it"
        )


def notice_of_unit(settings: Mapping[str, Any], dataset: Dataset) -> str | None:
    """The line that ε is about single records although persons have several; None where that is not so.

    Args:
        settings: of a run that is to be trained.
        dataset: its data.
    """
    persons = dataset.split.persons
    counts = np.ones(1, dtype=np.int64) if persons is None else np.unique(persons, return_counts=True)[1]
    key, node = "defense", settings["defense"]
    while node is not None and node.get("epsilon") is None:
        key, node = f"{key}.base", node.get("base")
    if counts.max() == 1 or node is None or math.isinf(node["epsilon"]) or node.get("records_per_person") is not None:
        return None
    return (
        f"ε is about single records; {len(counts):,} persons have up to {counts.max():,} of them:"
        f" {key}.records_per_person=<count> makes it one about persons"
    )
