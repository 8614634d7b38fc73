"""Trials: small runs by which settings are chosen on validation records."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from palisade.commandline import one_line
from palisade.data.dataset import Dataset, from_config
from palisade.data.settings import validated
from palisade.targets import progress, workers
from palisade.targets.config import DEFAULT_GUESSED_SHARE, validate_guessed_records
from palisade.targets.files import write_json
from palisade.targets.job import Job, notice_of_unit
from palisade.targets.run import Run
from palisade.targets.train_settings import TrainSettings
from palisade.targets.tuning import Tuning, with_values

TRIALS_FOLDER = ".trials"
"""Folder of trials, out of sight of whoever looks for the runs of a data set."""
TUNING_RUNS_KEY = "tuning_runs"
"""The setting of a defense that says how many trainings it was tuned by, for its statement."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A small run with some of the settings to try.

    Args:
        point: these settings.
        settings: all settings of the run.
        run: where it is kept.
    """

    point: Mapping[str, Any]
    settings: Mapping[str, Any]
    run: Run

    @property
    def models(self) -> int:
        """Number of models in the small run."""
        count: int = self.settings["fleet"]["models"]
        return count

    @property
    def accuracy(self) -> float | None:
        """Mean accuracy of its models on validation records; None if they could not be trained."""
        path = _result(self.run)
        return json.loads(path.read_text())["accuracy"] if path.exists() else None

    @property
    def failed(self) -> str | None:
        """The reason why its models could not be trained, such as a learning rate that makes them diverge."""
        path = self.run.folder / "FAILED"
        return path.read_text().strip() if path.exists() else None

    @property
    def is_over(self) -> bool:
        """Completion, by a validation accuracy or by a failure."""
        return self.accuracy is not None or self.failed is not None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials that a run is tuned by.

    Its models, shadows included, are then trained with the settings that were best on average over trial models, on
    other random halves of the pool: the choice is one of the run, not of a model. No ε covers it; the statement
    counts the trainings (Papernot & Steinke 2022, "Hyperparameter Tuning with Rényi Differential Privacy").

    Args:
        settings: of the run.
        dataset: its data.
        trials: one a combination.
    """

    settings: TrainSettings
    dataset: Dataset
    trials: Sequence[Trial]

    @classmethod
    def of(cls, settings: TrainSettings, dataset: Dataset) -> Trials:
        """The trials of a configuration with `tuning`.

        Raises:
            ValueError: if there are no validation records, or a setting to try is unknown.
        """
        dataset.split.require("validation", who="tuning")
        tuning = validated(Tuning, "tuning", settings.tuning)
        secret = None if settings.secret is None else f"{settings.secret}/trial"
        small = {
            **settings.plain,
            "tuning": None,
            "secret": secret,
            "guesses": DEFAULT_GUESSED_SHARE,  # no trial is audited, and runs of all shares have the same ones
            "runs": str(Path(settings.runs) / TRIALS_FOLDER),
            "fleet": {**settings.plain["fleet"], "models": tuning.models, "keep_checkpoints": 0},
        }
        changed = [(point, with_values(small, point)) for point in tuning.points]
        trials = [Trial(point=point, settings=each, run=Run.of(each, dataset)) for point, each in changed]
        for trial in trials:
            trial.run.check_secret(secret)
        return cls(settings=settings, dataset=dataset, trials=trials)

    @property
    def missing(self) -> list[Trial]:
        """Trials that are still to be trained."""
        return [trial for trial in self.trials if not trial.is_over]

    @property
    def trainings(self) -> int:
        """Number of models in all trials together."""
        return sum(trial.models for trial in self.trials)

    def train(self) -> bool:
        """Trains what is missing; False if another process is at it."""
        missing = self.missing
        for trial in self.trials:
            if trial not in missing:
                progress.report(trial.run.name, trial.models, cached=True)
        with ExitStack() as locks:
            if not all([locks.enter_context(trial.run.lock()) for trial in missing]):
                return False
            for trial in missing:
                trial.run.create(trial.settings, trial.settings["secret"], self.dataset)
            items = [(trial.settings, str(trial.run.folder)) for trial in missing]
            list(workers.run(try_out, items, workers.count(self.settings.fleet.workers)))
        return True

    def skipped(self) -> dict[str, Any]:
        """The run's folder where another process is at its trials."""
        return {"folder": str(Run.of(self.settings.plain, self.dataset).folder), "status": "skipped"}

    def chosen(self) -> TrainSettings:
        """The run's settings with the values of the most accurate trial, the first of several; says which.

        Raises:
            ValueError: if no trial could be trained.
        """
        best = max(self.trials, key=lambda trial: -1.0 if trial.accuracy is None else trial.accuracy)
        failed = [trial.failed for trial in self.trials if trial.accuracy is None]
        if best.accuracy is None:
            raise ValueError(f"tuning: all {len(failed)} trials failed, the first with: {failed[0]}")
        line = f"{self._name(best)}: {_point_text(best.point)}"
        line += f"; best of {len(self.trials)} trials ({self.trainings} trainings),"
        line += f" validation accuracy {best.accuracy:.3f}" + (f"; {len(failed)} failed: {failed[0]}" if failed else "")
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # in place of the progress line
        print(line, flush=True)
        chosen = {**with_values(self.settings.plain, best.point), "tuning": None}
        defense: Any = chosen["defense"]
        while isinstance(defense, dict):  # of several stages, it is the base that is private
            if TUNING_RUNS_KEY in defense:
                defense[TUNING_RUNS_KEY] += self.trainings
            defense = defense.get("base")
        return TrainSettings.parsed(chosen)

    def cost(self) -> dict[str, Any]:
        """Cost of trials and fleet: the fleet as much as with the slowest of the settings to try."""
        from palisade.targets.plan import COST_KEYS, TUNED_PLACEHOLDER, cost

        fleets = []
        for trial in self.trials:
            settings = with_values(self.settings.plain, trial.point)
            run = Run.of(settings, self.dataset)
            fleets.append(cost(run, settings, self.dataset, range(self.settings.fleet.models)))
        slowest = max(fleets, key=lambda fleet: fleet["minutes"])
        tried = [
            cost(trial.run, trial.settings, self.dataset, [] if trial.is_over else range(trial.models))
            for trial in self.trials
        ]
        together = {key: slowest[key] + sum(trial[key] for trial in tried) for key in COST_KEYS}
        folder = Path(slowest["folder"])
        named = folder.with_name(f"{folder.name.rpartition('-')[0]}-{TUNED_PLACEHOLDER}")
        return {**slowest, **together, "folder": str(named)}  # trials claim nothing by themselves

    def _name(self, trial: Trial) -> str:
        strength = trial.run.strength
        return f"tuned {self.settings.names['defense']}" + ("" if strength is None else f" {strength:g}")


def tuned(settings: TrainSettings, dataset: Dataset) -> Job | Trials:
    """The job of a run, with the settings that its trials chose; the trials, if that must wait for them.

    It waits where they are only planned, and where another process is at them.

    Raises:
        ValueError: if audits of the run would guess no record, or a setting cannot be used.
    """
    validate_guessed_records("guesses", settings.guesses, len(dataset.split.audited))
    if (notice := notice_of_unit(settings.plain, dataset)) is not None:
        progress.say(notice)
    if not settings.tuning:
        return Job.of(settings, dataset)
    trials = Trials.of(settings, dataset)
    if (settings.plan and trials.missing) or not trials.train():
        return trials
    return Job.of(trials.chosen(), dataset)


def try_out(settings: Mapping[str, Any], folder: str) -> None:
    """The work item of a process: one trial, from plain settings to its accuracy.

    Settings that no model can be trained with, such as a learning rate that makes it diverge, lose; that they do is
    kept, so that they are not tried again.
    """
    from palisade.targets.training import chunks, load_fleet, train_models

    run, models = Run(Path(folder)), range(settings["fleet"]["models"])
    try:
        for part in chunks(run.missing(len(models)), settings["fleet"]["at_once"]):
            train_models(settings, folder, run.name, part)
    except (ValueError, HydraException) as error:
        progress.report(run.name, len(run.missing(len(models))))
        run.fail(one_line(error))
        return
    data = from_config(settings)
    validation = data.split.validation
    predicted = load_fleet(settings, data, run.folder, models).predict(data.x[validation]).argmax(axis=-1)
    write_json(_result(run), {"accuracy": float((predicted == data.y[validation]).mean())})


def _result(run: Run) -> Path:
    return run.folder / "validation.json"


def _point_text(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in point.items())
