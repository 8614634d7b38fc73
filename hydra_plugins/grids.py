"""A sweep as the union of several grids, with one progress line and one summary."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

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
        configs = [self._composed(job, several=len(jobs) > 1) for job in jobs]
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
            jobs_done = self._launched(jobs, configs)
        summarize(jobs_done)
        return jobs_done

    def _composed(self, job: list[str], *, several: bool) -> DictConfig:
        """The settings of a job; of several the one is named that lacks the option which a setting belongs to."""
        assert self.hydra_context is not None and self.config is not None
        try:
            return self.hydra_context.config_loader.load_sweep_config(self.config, job)
        except HydraException as error:
            if not several:
                raise
            raise ValueError(f"{' '.join(job)}: {one_line(error)}") from error

    def _launched(self, jobs: Sequence[list[str]], configs: Sequence[DictConfig]) -> Sequence[JobReturn]:
        """Runs the jobs, by the basic launcher side by side, as far as runs may be.

        Not with another launcher, which has processes of its own, nor where trials go before a run, or another run of
        the same folder does.
        """
        assert self.launcher is not None
        from palisade.targets import device, engines

        device.choose(configs[0].device)
        engine: Any = OmegaConf.to_container(configs[0].engine, resolve=True)
        engines.choose(engine)
        if not isinstance(self.launcher, BasicLauncher):
            return self.launcher.launch(jobs, initial_job_idx=0)
        returned: dict[int, JobReturn] = {}
        left = list(range(len(jobs)))
        while left:
            stretch = list(takewhile(lambda number: not configs[number].get("tuning"), left))
            if stretch:
                self._launch_together(stretch, jobs, configs[0].fleet.workers, returned)
                left = [*(n for n in stretch if is_postponed(returned[n])), *left[len(stretch) :]]
            else:
                (returned[left[0]],) = self.launcher.launch([jobs[left[0]]], initial_job_idx=left.pop(0))
        return [returned[number] for number in range(len(jobs))]

    def _launch_together(
        self, numbers: Sequence[int], jobs: Sequence[list[str]], workers: int | str, returned: dict[int, JobReturn]
    ) -> None:
        from palisade.targets import side_by_side

        begun: dict[int, side_by_side.BegunRun] = {}

        def begin() -> Iterator[side_by_side.BegunRun]:
            assert self.launcher is not None
            for number in numbers:
                (job,) = self.launcher.launch([jobs[number]], initial_job_idx=number)
                returned[number] = job
                if job.status != JobStatus.FAILED and (run := job.return_value.pop("begun", None)) is not None:
                    begun[number] = run
                    yield run

        with side_by_side.gathering():
            side_by_side.train_all(begin(), workers)
        for number, run in begun.items():
            if run.error is not None:
                returned[number].return_value = ValueError(run.error)
                returned[number].status = JobStatus.FAILED


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


def is_postponed(job: JobReturn) -> bool:
    """True for a run that waits for another one of its folder."""
    from palisade.targets.side_by_side import POSTPONED_STATUS

    return job.status != JobStatus.FAILED and bool(job.return_value["status"] == POSTPONED_STATUS)


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
