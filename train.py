"""Train a run, a sweep (-m) or a release (ship=<run>)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.commandline import call
from palisade.targets.composition import check_shipped, composed, settings_of

__all__ = ["composed", "main", "one", "train_run"]  # programs take `composed` from here, beside `train_run`


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> dict[str, Any] | None:
    """Trains what Hydra composed: one run, or the present one of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        return train_run(settings_of(config))  # the sweep shows the progress line, failures and the summary
    call(lambda: one(settings_of(config), job.overrides.task, job.sweeper.get("grids") or ()))


def one(settings: dict[str, Any], overrides: Sequence[str] = (), grids: Sequence[str] = ()) -> None:
    """A single run, plan or release, and what it prints.

    Args:
        settings: of the run.
        overrides: what was given on the command line.
        grids: what a sweep would have trained.

    Raises:
        ValueError: if something was given that a single run, or a release, does not use.
    """
    from palisade.targets import progress
    from palisade.targets.config import check_groups
    from palisade.targets.tuning import trainings

    check_groups(settings)
    if settings["quiet"]:
        progress.silence()
    if grids:
        raise ValueError(f"this experiment is a sweep of {len(grids)} grids; put -m before the settings to train it")
    if settings["ship"] is not None:
        from palisade.targets.release import ship_run

        check_shipped(settings, overrides)
        print(ship_run(settings))
    elif settings["plan"]:
        from palisade.evaluation.plan import show_costs

        show_costs([train_run(settings)])
    else:
        with progress.Progress(Path(settings["runs"]), trainings(settings)):
            outcome = train_run(settings)
        print(f"{outcome['status']}: {outcome['folder']}")


def train_run(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains what is missing of one run.

    Returns:
        The run's folder and what was done: trained, cached, skipped or, with `plan=true`, its cost.
    """
    from palisade.data.dataset import from_config
    from palisade.targets import progress
    from palisade.targets.config import check_guesses_somebody, check_settings, checked_share
    from palisade.targets.job import Job
    from palisade.targets.run import Run

    check_settings(settings)
    guesses = checked_share("guesses", settings["guesses"])
    dataset = from_config(settings)
    check_guesses_somebody("guesses", guesses, len(dataset.split.audited))
    if settings.get("tuning"):
        from palisade.targets.trials import Trials

        trials = Trials.of(settings, dataset)
        if trials.missing and settings["plan"]:
            from palisade.evaluation.plan import with_reach

            return with_reach(trials.cost(), settings, dataset)
        if not trials.train():
            return {"folder": str(Run.of(settings, dataset).folder), "status": "skipped"}
        settings = trials.chosen()
    job = Job.of(settings, dataset)
    if settings["plan"]:
        from palisade.evaluation.plan import with_reach

        return with_reach(job.cost(), settings, dataset)
    if job.is_cached:
        return job.reuse()
    from palisade.evaluation.plan import Reach

    settled = job.try_out()
    if job.missing and (reach := Reach.planned(settings, dataset)) is not None:
        progress.say(reach.sentence())
    return job.train(settled)


if __name__ == "__main__":
    call(main)
