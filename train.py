"""Train a run, a sweep (-m) or a release (ship=<run>)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.commandline import call
from palisade.targets.composition import check_shipped, composed, settings_of

__all__ = ["composed", "main", "run_single", "train_run"]  # programs take `composed` from here, beside `train_run`


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> dict[str, Any] | None:
    """Trains what Hydra composed: one run, or the present one of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        return train_run(settings_of(config))  # the sweep shows the progress line, failures and the summary
    call(lambda: run_single(settings_of(config), job.overrides.task, job.sweeper.get("grids") or ()))


def run_single(settings: Mapping[str, Any], overrides: Sequence[str] = (), grids: Sequence[str] = ()) -> None:
    """A single run, plan or release, and what it prints; grids of a sweep, or overrides unused, are refused."""
    from palisade.targets import device, engines, progress
    from palisade.targets.train_settings import TrainSettings
    from palisade.targets.trial_outcomes import TuningOutcome
    from palisade.targets.tuning import trainings

    if settings.get("plan") is True and settings.get("ship") is None:
        from palisade.targets.plan import check_all

        with progress.one_line_warnings():
            check_all(settings)
    asked = TrainSettings.parsed(settings)
    device.choose(asked.device)
    engines.choose(asked.engine)
    if asked.quiet:
        progress.silence()
    if grids:
        raise ValueError(f"this experiment is a sweep of {len(grids)} grids; put -m before the settings to train it")
    if asked.ship is not None:
        from palisade.targets.shipping import ship_run

        check_shipped(settings, overrides)
        with progress.one_line_warnings():
            print(ship_run(settings))
    elif asked.plan:
        from palisade.evaluation.plan import show_costs

        show_costs([train_run(settings)])
    else:
        with progress.Progress(Path(asked.runs), trainings(settings)):
            outcome = train_run(settings)
        if asked.tuning and (tuning := TuningOutcome.read(Path(outcome["folder"]))) is not None:
            from palisade.evaluation.table import show_trials

            show_trials(tuning)
        print(f"{outcome['status']}: {outcome['folder']}")


def train_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Trains what is missing of one run; the settings are those that `composed` gives.

    Returns:
        The run's folder and what was done: trained, cached, skipped or, with `plan=true`, its cost. In a sweep whose
        runs are trained side by side also `begun`, the run, or that it is `postponed`.
    """
    from palisade.data.dataset import from_config
    from palisade.targets import device, engines, side_by_side
    from palisade.targets.defaults import resolved
    from palisade.targets.job import Job
    from palisade.targets.progress import one_line_warnings
    from palisade.targets.train_settings import TrainSettings
    from palisade.targets.trials import Trials, tuned

    asked = TrainSettings.parsed(settings)
    device.choose(asked.device)
    engines.choose(asked.engine)
    with one_line_warnings():
        dataset = from_config(asked.plain)
    asked = TrainSettings.parsed(resolved(settings, dataset))
    job = tuned(asked, dataset)
    if isinstance(job, Job) and asked.fleet.keep != "weights":
        from palisade.evaluation.signals.saved import RunSignals

        job = replace(job, saver=RunSignals.of(asked.fleet, dataset))
    if asked.plan:
        from palisade.evaluation.plan import with_reach

        return with_reach(job)
    if isinstance(job, Trials):
        return job.skipped()
    if side_by_side.must_wait(job):
        return job.outcome(side_by_side.POSTPONED_STATUS)
    if job.is_cached:
        return job.reuse()
    from palisade.evaluation.plan import say_reach

    settled = job.try_out()
    say_reach(job)
    return side_by_side.train(job, settled)


if __name__ == "__main__":
    call(main)
