"""Progress of runs: lines, notices and the log that each run keeps."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from palisade.targets import versions
from palisade.targets.files import remove_stale, temporary_path

PROGRESS_VARIABLE = "PALISADE_PROGRESS"
PLAIN_INTERVAL = 30.0
POLL_INTERVAL = 0.2

_silent = False
IGNORED_WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"GPU available but not used",  # fleets are trained on the CPU
    r"The '\w+' does not have many workers",  # records are in memory already
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # epochs are logged, not steps
)
"""Beginnings of messages that no user can act on, as regular expressions."""
LIGHTNING_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning")
LOG_FILE = "train.log"
LOGGED_LIBRARIES = ("torch", "opacus", "pytorch-lightning", "numpy")


@dataclass
class WorkerNotes:
    """Lines of a worker that does not share the files and the terminal of the command that started it.

    Args:
        reports: lines of progress.
        log: folder of the run, and what is appended to its log.
    """

    reports: list[tuple[str, int, bool]] = field(default_factory=list)
    log: list[tuple[Path, str]] = field(default_factory=list)

    def deliver(self) -> None:
        """Appends all of it where it belongs."""
        for run, models, cached in self.reports:
            report(run, models, cached=cached)
        for folder, line in self.log:
            _append(folder, line)


_notes: WorkerNotes | None = None


@contextmanager
def noting(notes: WorkerNotes) -> Iterator[None]:
    """Collects what is said within the block, instead of writing it."""
    global _notes
    _notes = notes
    try:
        yield
    finally:
        _notes = None


def report(run: str, models: int, *, cached: bool = False) -> None:
    """Appends that `models` models of a run are ready; one short write, so concurrent processes do not mix."""
    if _notes is not None:
        _notes.reports.append((run, models, cached))
    elif (path := os.environ.get(PROGRESS_VARIABLE)) is not None:
        with suppress(OSError), Path(path).open("a") as file:  # a full disk stops the line, not the models
            file.write(f"{run}\t{models}\t{int(cached)}\n")


def report_again(run: str, models: int) -> None:
    """Reports what a worker that died has done, if its own report was lost with it."""
    if _notes is not None:
        report(run, models)


def say(line: str) -> None:
    """Prints a line on stderr, in the place of the progress line if that stands there."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}{line}", file=sys.stderr, flush=True)


def begin(line: str) -> None:
    """Prints a line on what begins and takes long, as `say` does, unless lines are silenced."""
    if not _silent:
        say(line)


def silence() -> None:
    """Lines of this process are not shown from now on: `quiet=true`."""
    global _silent
    _silent = True


class Progress:
    """Bar with what runs, done/left and the time to go until the block ends; without a terminal a line every 30 s.

    The estimate counts what was trained: models that were there already, and the first ones, which take minutes, would
    lead rich's own astray.

    Args:
        folder: where the file to follow is made; processes started within inherit its name.
        total: how many models, or other units, the block will make or find.
        unit: what is counted.
    """

    def __init__(self, folder: Path, total: int, unit: str = "models") -> None:
        self.path, self.total, self.unit = temporary_path(folder / "progress"), total, unit
        self.done = self.cached = 0
        self.run = ""
        self.started = time.monotonic()
        self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), auto_refresh=False)
        self._in_terminal = self._bar.console.is_terminal and not _silent
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Progress:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self.path.parent)
        self.path.write_text("")
        os.environ[PROGRESS_VARIABLE] = str(self.path.resolve())
        if self._in_terminal:
            self._bar.start()
            self._bar.add_task(self.line(), total=self.total)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._read()
        self._bar.live.transient = error is not None
        if error is None:
            self._show()
        if self._in_terminal:
            self._bar.stop()
        if isinstance(error, KeyboardInterrupt):
            error.args = (f"{self.done} of {self.total} {self.unit} are done",)  # for the command's last line
        os.environ.pop(PROGRESS_VARIABLE, None)
        self.path.unlink(missing_ok=True)

    def line(self) -> str:
        """Models done and in all, time spent, time to go by the models trained so far, and the run in work."""
        elapsed = time.monotonic() - self.started
        trained = self.done - self.cached
        left = self.total - self.done
        eta = f"about {_clock(elapsed / trained * left)} left" if trained else "estimating"
        return f"{self.done}/{self.total} {self.unit} · {_clock(elapsed)} · {eta if left else 'done'} · {self.run}"

    def _read(self) -> None:
        rows = [line.split("\t") for line in self.path.read_text().splitlines() if line.endswith(("0", "1"))]
        self.done = sum(int(models) for _, models, _ in rows)
        self.cached = sum(int(models) for _, models, cached in rows if cached == "1")
        self.run = rows[-1][0] if rows else self.run

    def _follow(self) -> None:
        last = self.started
        while not self._over.wait(POLL_INTERVAL):
            self._read()
            if self._in_terminal or time.monotonic() - last >= PLAIN_INTERVAL:
                last = time.monotonic()
                self._show()

    def _show(self) -> None:
        if self._in_terminal:
            for task in self._bar.task_ids:
                self._bar.update(task, completed=self.done, description=self.line(), refresh=True)
        elif not _silent:
            print(self.line(), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"


@contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """Hides messages of Lightning, Opacus and torch that no user can act on; with `verbose` all are shown."""
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    with warnings.catch_warnings():
        if not verbose:
            for message in IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def one_line_warnings(also: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Shows each warning as one line, without its place in the code.

    Args:
        also: gets every line, such as the log of a run.
    """

    def show_line(message: Warning | str, *place: object, **more: object) -> None:
        line = f"warning: {' '.join(str(message).split())}"
        say(line)
        also(line)

    with warnings.catch_warnings():
        warnings.showwarning = show_line
        yield


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """Lines with their time in `train.log` of a run; several processes may write it. It holds no settings, no secret
    and nothing about a record.

    Args:
        folder: of the run.
        verbose: whether the lines are shown in the terminal, too.
    """

    folder: Path
    verbose: bool = False

    def add(self, line: str) -> None:
        """Adds a line; a log that cannot be written stops nothing."""
        if self.verbose:
            print(f"{self.folder.name}: {line}", file=sys.stderr, flush=True)
        _append(self.folder, _stamped(line))

    def add_again(self, models: Sequence[int]) -> None:
        """Says of models that a worker that died has trained them, if its own lines were lost with it."""
        if _notes is not None and not any(folder == self.folder for folder, _ in _notes.log):
            self.add(f"models {', '.join(map(str, models))} trained by a worker that ended before it could say so")

    def start(self, wanted: int, missing: int) -> None:
        """Says how much is to be done, and by what.

        Args:
            wanted: number of models of the run.
            missing: how many of them are to be trained.
        """
        software = ", ".join(f"{name} {version}" for name, version in versions(LOGGED_LIBRARIES).items())
        self.add(f"{missing} of {wanted} models to train; {software}")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds how long the block took, once it ended well, and what was warned of in it."""
        started = time.monotonic()
        with self.warned():
            yield
        self.took(what, started)

    @contextmanager
    def warned(self) -> Iterator[None]:
        """Adds what is warned of in the block."""
        with one_line_warnings(also=lambda line: _append(self.folder, _stamped(line))):
            yield

    def took(self, what: str, started: float) -> None:
        """Adds how long something took that has just ended.

        Args:
            what: has ended.
            started: when, by `time.monotonic`.
        """
        self.add(f"{what} in {time.monotonic() - started:.1f} s")


def _stamped(line: str) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}"


def _append(folder: Path, line: str) -> None:
    if _notes is not None:
        _notes.log.append((folder, line))
        return
    with suppress(OSError), (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
