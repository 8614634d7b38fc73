"""One progress line for a whole sweep: every finished model appends to a file, the line follows it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from palisade.targets.files import remove_stale, temporary_path

VARIABLE = "PALISADE_PROGRESS"
PLAIN_INTERVAL = 30.0
POLL_INTERVAL = 0.2

_silent = False


def report(run: str, models: int, *, cached: bool = False) -> None:
    """Appends that `models` models of a run are ready; one short write, so concurrent processes do not mix."""
    if (path := os.environ.get(VARIABLE)) is not None:
        with suppress(OSError), Path(path).open("a") as file:  # a full disk stops the line, not the models
            file.write(f"{run}\t{models}\t{int(cached)}\n")


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
    """Shows what runs, done/left and the time to go until the block ends; a plain line every 30 s without a terminal.

    Args:
        folder: where the file to follow is made; every process started within is told its name.
        total: how many models, or other units, the block will make or find.
        unit: what is counted.
    """

    def __init__(self, folder: Path, total: int, unit: str = "models") -> None:
        self.path, self.total, self.unit = temporary_path(folder / "progress"), total, unit
        self.done = self.cached = 0
        self.run = ""
        self.started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Progress:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self.path.parent)
        self.path.write_text("")
        os.environ[VARIABLE] = str(self.path.resolve())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._read()
        if error is None:
            self._show(end="\n")
        elif sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if isinstance(error, KeyboardInterrupt):
            error.args = (f"{self.done} of {self.total} {self.unit} are done",)  # for the command's last line
        os.environ.pop(VARIABLE, None)
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
            if sys.stderr.isatty():
                self._show(end="")
            elif time.monotonic() - last >= PLAIN_INTERVAL:
                last = time.monotonic()
                self._show(end="\n")

    def _show(self, end: str) -> None:
        if not _silent:
            clear = "\r\033[K" if sys.stderr.isatty() else ""
            print(f"{clear}{self.line()}", end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
