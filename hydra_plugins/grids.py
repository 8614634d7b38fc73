"""A sweep as the union of several grids, with one progress line and one summary."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from palisade.commandline import EXIT_SOME_FAILED, is_bad_input, one_line
from palisade.targets.tuning import trainings


@dataclass
class GridsConf:
    """Settings of the sweeper `grids`: one grid a line."""

    _target_: str = "hydra_plugins.grids.GridsSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    grids: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridsConf, provider="palisade")


class GridsSweeper(BasicSweeper):
    """Runs several products one after the other: one product cannot hold defenses with different parameters.

    Args:
        grids: one product a line, such as `defense=l2 defense.weight_decay=1e-4,1e-3`; what stands on the command
            line is added to every line.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, grids: Sequence[str]) -> None:
        super().__init__(max_batch_size, params)
        self.grids = grids

    def sweep(self, arguments: list[str]) -> Any:
        """The runs of all grids, one after the other, as Hydra asks for them.

        Args:
            arguments: overrides of the command line, which hold for every grid.

        Returns:
            The results of the jobs; None where only costs were asked for.
        """
        assert self.hydra_context is not None and self.launcher is not None and self.config is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs: list[list[str]] = []
        for grid in self.grids or [""]:
            overrides = parser.parse_overrides([*self._parse_config(), *grid.split(), *arguments])
            jobs += self.split_arguments(overrides, None)[0]
        configs = [self.hydra_context.config_loader.load_sweep_config(self.config, job) for job in jobs]
        if isinstance(self.launcher, BasicLauncher):  # others compose in processes of their own
            loader = ComposedLoader(self.hydra_context.config_loader, jobs, configs)
            self.launcher.hydra_context = HydraContext(config_loader=loader, callbacks=self.hydra_context.callbacks)
        first = configs[0]
        if first.get("plan"):
            from palisade.evaluation.plan import show_costs

            show_costs([costs(job) for job in self.launcher.launch(jobs, initial_job_idx=0)])
            return None

        from palisade.targets import progress

        if first.quiet:
            progress.silence()
        with progress.Progress(Path(first.runs), total(configs)):
            jobs_done = self.launcher.launch(jobs, initial_job_idx=0)
        summarize(jobs_done)
        return jobs_done


class ComposedLoader(ConfigLoaderImpl):
    """Configurations of a sweep's jobs, which take a tenth of a second each: composed once, handed out once.

    Args:
        loader: what composed them, and composes all others.
        jobs: the overrides of each.
        configs: of the jobs.
    """

    def __init__(self, loader: ConfigLoader, jobs: Sequence[Sequence[str]], configs: Sequence[DictConfig]) -> None:
        super().__init__(loader.get_search_path())
        self.composed = {tuple(job): config for job, config in zip(jobs, configs, strict=True)}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's composed configuration, taken from the check of the sweep where that has composed it already."""
        ready = self.composed.pop(tuple(sweep_overrides), None)
        return super().load_sweep_config(master_config, sweep_overrides) if ready is None else ready


def total(configs: Sequence[DictConfig]) -> int:
    """The number of models of a whole sweep, trials included."""
    return sum(trainings(config) for config in configs)


def costs(job: JobReturn) -> Any:
    """Cost of a run.

    Raises:
        ValueError: if its settings are wrong.
    """
    if job.status == JobStatus.FAILED and is_bad_input(job._return_value):
        raise ValueError(f"{' '.join(job.overrides or ())}: {one_line(job._return_value)}")
    return job.return_value


def summarize(jobs: Sequence[JobReturn]) -> None:
    """Prints what became of every run, and exits with 1 if some failed."""
    outcomes = Counter("failed" if job.status == JobStatus.FAILED else job.return_value["status"] for job in jobs)
    for job in jobs:
        if job.status == JobStatus.FAILED:
            print(f"failed: {' '.join(job.overrides or ())}: {one_line(job._return_value)}")
    done = outcomes["trained"] + outcomes["cached"]
    print(f"{done} done, {outcomes['failed']} failed, {outcomes['skipped']} skipped")
    if outcomes["failed"]:
        raise SystemExit(EXIT_SOME_FAILED)
