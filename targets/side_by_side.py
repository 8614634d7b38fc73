"""Runs of a sweep side by side: the chunks of all of them are one list of work items, which keeps all workers busy.

Runs are begun as workers come to need their chunks, each under its lock. An engine that takes a whole list, such as an
array of jobs, has all of them begun first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from palisade.commandline import one_line
from palisade.targets import engines
from palisade.targets.job import Job

POSTPONED_STATUS = "postponed"
"""Status of a run that must wait until another one of the same folder, such as with another guard, is over."""

_open: dict[Path, BegunRun] | None = None
"""Runs that were begun and are not over, by their folders; None where each is trained as soon as it is begun."""


@contextmanager
def gathering() -> Iterator[None]:
    """Runs that are begun in the block are trained by `train_all`."""
    global _open
    _open = {}
    try:
        yield
    finally:
        for run in [*_open.values()]:
            run.release()
        _open = None


def must_wait(job: Job) -> bool:
    """True while another run of the same folder is open."""
    return _open is not None and job.run.folder in _open


def train(job: Job, settled: Mapping[str, str] | None) -> dict[str, Any]:
    """Trains a run, or begins it where runs are gathered by an engine that takes several: `begun` of its outcome is
    the run then."""
    if _open is None or not engines.takes_several_runs():
        return job.train(settled)
    run = BegunRun(job)
    return {**job.outcome("trained"), "begun": run} if run.begin(settled) else job.outcome("skipped")


class BegunRun:
    """A run under its lock, of which workers train the models.

    Args:
        job: what is wanted of it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.items: list[tuple[Any, ...]] = []
        self.error: str | None = None
        self.is_dealt = self.is_over = False
        self.out = 0
        self._held = ExitStack()
        self._started = time.monotonic()

    def begin(self, settled: Mapping[str, str] | None) -> bool:
        """Locks the run and finds out what is to be trained; False if another process is at it.

        Args:
            settled: decisions of the defense for all models.
        """
        if not self._held.enter_context(self.job.run.lock()):
            return False
        assert _open is not None
        _open[self.job.run.folder] = self
        try:
            with self.job.log.warned():
                self.items = self.job.begin(settled)
        except Exception as error:
            self._fail(one_line(error))
            raise
        return True

    def dealt(self) -> Iterator[tuple[Any, ...]]:
        """Work items, until one of them fails."""
        for item in self.items:
            if self.is_over or self.error is not None:
                break
            self.out += 1
            yield item
        self.is_dealt = True
        self._end_if_done()

    def came_back(self, reason: str | None) -> None:
        """Takes note of an item that has ended.

        Args:
            reason: why it failed; None if it did not.
        """
        self.out -= 1
        self.error = self.error or reason
        self._end_if_done()

    def end(self) -> None:
        """Trains what is not trained yet, by the engine alone, and finishes the run."""
        if self.is_over:
            return
        try:
            if self.error is None:
                with self.job.log.warned():
                    self.job.train_models(self.items)
                    self.job.finish()
        except Exception as error:
            self.error = one_line(error)
        if self.error is not None:
            self._fail(self.error)
            return
        self.job.log.took("complete", self._started)
        self.release()

    def release(self) -> None:
        """Lets go of the lock."""
        self.is_over = True
        self._held.close()
        if _open is not None:
            _open.pop(self.job.run.folder, None)

    def _end_if_done(self) -> None:
        if self.is_dealt and not self.out and not self.job.needs_workers:
            self.items = []
            self.end()

    def _fail(self, reason: str) -> None:
        self.error = reason
        self.job.fail(reason)
        self.release()


def train_all(begun: Iterator[BegunRun], workers: int | str) -> None:
    """Trains runs side by side; one that fails leaves the others alone, and holds its `error`.

    Args:
        begun: runs, begun as they are taken.
        workers: `fleet.workers`.
    """
    runs: list[BegunRun] = []
    folders: list[Path] = []

    def items() -> Iterator[tuple[Any, ...]]:
        for place, run in enumerate(begun):
            runs.append(run)
            folders.append(run.job.run.folder)
            yield from ((place, *item) for item in run.dealt())

    waiting = items()
    if (first := next(waiting, None)) is not None:  # or all runs are cached
        _work_off(runs, chain([first], waiting), workers, folders)
    for run in runs:
        run.items = []
        run.end()


def _work_off(
    runs: Sequence[BegunRun], waiting: Iterator[tuple[Any, ...]], workers: int | str, folders: list[Path]
) -> None:
    from palisade.targets.training import train_part

    while True:
        try:
            for place, reason in engines.run(train_part, waiting, workers, folders):
                runs[place].came_back(reason)
            return
        except ChildProcessError:  # of some run, which is seen when each has the workers for itself
            for run in runs:
                run.end()
