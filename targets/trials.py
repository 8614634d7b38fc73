"""Trials: small runs by which settings are chosen on validation records."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import HydraException

from palisade.commandline import one_line
from palisade.data.dataset import Dataset, from_config
from palisade.data.labels import largest_share
from palisade.data.sequences import NO_TOKEN
from palisade.data.settings import validated
from palisade.fields import as_written
from palisade.targets import engines, progress
from palisade.targets.config import DEFAULT_GUESSED_SHARE, validate_guessed_records
from palisade.targets.defaults import dense_name, public_size
from palisade.targets.files import write_json
from palisade.targets.job import Job, notice_of_unit
from palisade.targets.recipe import WEIGHTS_ALONE
from palisade.targets.run import Run
from palisade.targets.train_settings import TrainSettings
from palisade.targets.trial_outcomes import TrialOutcome, TrialStatus, TuningOutcome
from palisade.targets.tuning import TUNING_RUNS_KEY, Tuning, with_values

DENSE_NAMES = ("mlp", "linear")
BATCH_SUFFIX = ".batch_size"
TRIALS_FOLDER = ".trials"
"""Folder of trials, out of sight of whoever looks for the runs of a data set."""


@dataclass(frozen=True, kw_only=True, eq=False)
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
    def accuracies(self) -> list[float]:
        """Accuracy of each of its models so far on validation records."""
        path = _result(self.run)
        measured: list[float] = json.loads(path.read_text()).get("accuracies", []) if path.exists() else []
        return measured

    @property
    def failed(self) -> str | None:
        """The reason why its models could not be trained, such as a learning rate that makes them diverge."""
        path = self.run.folder / "FAILED"
        return path.read_text().strip() if path.exists() else None

    def accuracy(self, models: int) -> float | None:
        """Mean accuracy of its first models; None if some could not be trained."""
        first = self.accuracies[:models]
        return float(np.mean(first)) if len(first) == models and self.failed is None else None

    def lacks(self, models: int) -> bool:
        """True if some of its first models are still to be trained."""
        return self.failed is None and len(self.accuracies) < models


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials that a run is tuned by.

    Its models, shadows included, are then trained with the settings that were best on average over trial models, on
    other random halves of the pool: the choice is one of the run, not of a model. No ε covers it; the statement
    counts the trainings (Papernot & Steinke 2022, "Hyperparameter Tuning with Rényi Differential Privacy").

    Args:
        settings: of the run.
        dataset: its data.
        tuning: what is tried.
        trials: one a combination.
    """

    settings: TrainSettings
    dataset: Dataset
    tuning: Tuning
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
            "fleet": {**settings.plain["fleet"], "models": tuning.models, **WEIGHTS_ALONE},
        }
        points = within(tuning.points(settings.plain["network"]), public_size(settings.plain, dataset))
        changed = [(point, with_values(small, point)) for point in points]
        trials = [Trial(point=point, settings=each, run=Run.of(each, dataset)) for point, each in changed]
        for trial in trials:
            trial.run.check_secret(secret)
        return cls(settings=settings, dataset=dataset, tuning=tuning, trials=trials)

    def rounds(self) -> Iterator[tuple[int, Sequence[Trial]]]:
        """Number of models that the trials of each round train in all, and these trials.

        Each follows from the round before it, which must be over.
        """
        left = self.trials
        for models in self.tuning.rounds:
            yield models, left
            left = better_half(left, models)

    @property
    def missing(self) -> list[Trial]:
        """Trials that are still to be trained in the first round that is not over."""
        rounds = ([trial for trial in left if trial.lacks(models)] for models, left in self.rounds())
        return next(filter(None, rounds), [])

    def train(self) -> bool:
        """Trains what is missing; False if another process is at it."""
        with ExitStack() as locks:
            if self.missing and not all([locks.enter_context(trial.run.lock()) for trial in self.trials]):
                return False
            before = 0
            for models, left in self.rounds():
                missing = [trial for trial in left if trial.lacks(models)]
                for trial in left:
                    if trial not in missing:
                        progress.report(trial.run.name, models - before, cached=True)
                for trial in missing:
                    trial.run.create(trial.settings, trial.settings["secret"], self.dataset)
                items = [({**trial.settings, "secret": None}, str(trial.run.folder), models) for trial in missing]
                folders = [trial.run.folder for trial in missing]
                list(engines.run(try_out, items, self.settings.fleet.workers, folders))
                before = models
        return True

    def skipped(self) -> dict[str, Any]:
        """The run's folder where another process is at its trials."""
        return {"folder": str(Run.of(self.settings.plain, self.dataset).folder), "status": "skipped"}

    @property
    def best(self) -> Trial:
        """The most accurate trial of the last round, the first of several.

        Raises:
            ValueError: if no trial could be trained.
        """
        *_, (models, left) = self.rounds()
        best = _ranked(left, models)[0]
        if best.accuracy(models) is None:
            failed = [reason for trial in self.trials if (reason := trial.failed) is not None]
            raise ValueError(f"tuning: all {len(failed)} trials failed, the first with: {failed[0]}")
        return best

    def outcome(self) -> TuningOutcome:
        """Outcomes of all trials.

        Raises:
            ValueError: if no trial could be trained.
        """
        reached = {trial: models for models, left in self.rounds() for trial in left}
        best = self.best

        def status(trial: Trial) -> TrialStatus:
            if trial.failed is not None:
                return "failed"
            return (
                "chosen" if trial is best else "complete" if reached[trial] == self.tuning.models else "stopped early"
            )

        outcomes = [
            TrialOutcome(
                settings={key: as_written(value) for key, value in trial.point.items()},
                status=status(trial),
                models=models,
                accuracy=trial.accuracy(models),
                reason=trial.failed or "",
            )
            for trial, models in reached.items()
        ]
        labels = self.dataset.y[self.dataset.split.validation]
        return TuningOutcome.of(largest_share(labels[labels != NO_TOKEN]), outcomes)

    def chosen(self, outcome: TuningOutcome) -> TrainSettings:
        """The run's settings with the values of the best trial; says which.

        Raises:
            ValueError: if no trial could be trained.
        """
        best = self.best
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # in place of the progress line
        print(f"{self._name(best)}: {outcome.sentence}", flush=True)
        chosen = {**with_values(self.settings.plain, best.point), "tuning": None}
        if chosen["names"]["network"] in DENSE_NAMES:
            chosen["names"] = {**chosen["names"], "network": dense_name(chosen["network"])}
        defense: Any = chosen["defense"]
        while isinstance(defense, dict):  # of several stages, it is the base that is private
            if TUNING_RUNS_KEY in defense:
                defense[TUNING_RUNS_KEY] += outcome.trainings
            defense = defense.get("base")
        return TrainSettings.parsed(chosen)

    def cost(self) -> dict[str, Any]:
        """Cost of trials and fleet: the fleet as much as with the slowest of the settings to try."""
        from palisade.targets.plan import COST_KEYS, COST_KEYS_OF_TRAINING, TUNED_PLACEHOLDER, cost

        fleets = []
        for trial in self.trials:
            settings = with_values(self.settings.plain, trial.point)
            run = Run.of(settings, self.dataset)
            fleets.append(cost(run, settings, self.dataset, range(self.settings.fleet.models)))
        slowest = max(fleets, key=lambda fleet: fleet["minutes"])
        together = {key: slowest[key] for key in COST_KEYS}
        alone = {**self.settings.plain["fleet"], "models": 1, **WEIGHTS_ALONE}
        of_model = [
            (trial, cost(trial.run, {**trial.settings, "fleet": alone}, self.dataset, range(1)))
            for trial in self.trials
        ]
        of_model.sort(key=lambda each: -each[1]["minutes"])  # as if the slowest went on
        for models, (trial, each) in zip(self.tuning.budgets(len(of_model)), of_model, strict=True):
            missing = max(models - len(trial.accuracies), 0) if trial.lacks(models) else 0
            for key in COST_KEYS:
                together[key] += each[key] * (missing if key in COST_KEYS_OF_TRAINING else models)
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
    outcome = trials.outcome()
    return replace(Job.of(trials.chosen(outcome), dataset), tuning=outcome)


def better_half(trials: Sequence[Trial], models: int) -> list[Trial]:
    """The trials that are trained on, in their order: those whose place is not behind the median of all places.

    Places rather than accuracies, of which many may be equal: how many trials go on, and hence how many models are
    trained, then depends on no record. Nor does anything depend on which trial is over first.

    Args:
        trials: of a round that is over.
        models: that each of them has trained.
    """
    import optuna  # slow to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=0))
    ranked = _ranked(trials, models)
    places = [
        optuna.trial.create_trial(value=place, intermediate_values={models: place}) for place in range(len(ranked))
    ]
    study.add_trials(places)
    better = [trial for trial, place in zip(ranked, places, strict=True) if not study.pruner.prune(study, place)]
    return [trial for trial in trials if trial in better]


def _ranked(trials: Sequence[Trial], models: int) -> list[Trial]:
    """Trials by the accuracy of their first models, the first of equals first and those that failed last."""

    def place(trial: Trial) -> float:
        accuracy = trial.accuracy(models)
        return 1.0 if accuracy is None else -accuracy

    return sorted(trials, key=place)


def try_out(settings: Mapping[str, Any], folder: str, models: int) -> None:
    """The work item of a process: one trial, from plain settings to the accuracies of its first models.

    Settings that no model can be trained with, such as a learning rate that makes it diverge, lose; that they do is
    kept, so that they are not tried again.
    """
    from palisade.targets.training import chunks, load_fleet, train_models

    run = Run(Path(folder))
    known = Trial(point={}, settings=settings, run=run).accuracies
    missing = run.missing(models)
    progress.report(run.name, max(models - len(known) - len(missing), 0), cached=True)
    try:
        for part in chunks(missing, settings["fleet"]["at_once"]):
            train_models(settings, folder, run.name, part)
    except (ValueError, HydraException) as error:
        progress.report(run.name, len(run.missing(models)))
        run.fail(one_line(error))
        return
    data, later = from_config(settings), range(len(known), models)
    validation = data.split.validation
    predicted = load_fleet(settings, data, run.folder, later).predict(data.x[validation]).argmax(axis=-1)
    counted = data.y[validation] != NO_TOKEN
    right = ((predicted == data.y[validation]) & counted).reshape(models - len(known), -1).sum(axis=1) / counted.sum()
    write_json(_result(run), {"accuracies": [*known, *right.tolist()]})


def _result(run: Run) -> Path:
    return run.folder / "validation.json"


def within(points: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    """Settings to try of which some can be: where every batch is larger than N, batches of N records."""
    batches = [value for point in points for key, value in point.items() if key.endswith(BATCH_SUFFIX)]
    if not batches or any(not isinstance(batch, int) or batch <= size for batch in batches):
        return [dict(point) for point in points]
    cut = [{key: size if key.endswith(BATCH_SUFFIX) else value for key, value in point.items()} for point in points]
    return [point for k, point in enumerate(cut) if point not in cut[:k]]
