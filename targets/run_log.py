"""The log of a run: when was done what, with which versions and how long it took, and what was warned of."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from palisade.targets import notices, versions

FILE = "train.log"
LIBRARIES = ("torch", "opacus", "pytorch-lightning", "numpy")


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
        self._append(line)

    def start(self, wanted: int, missing: int) -> None:
        """Says how much is to be done, and by what.

        Args:
            wanted: number of models of the run.
            missing: how many of them are to be trained.
        """
        software = ", ".join(f"{name} {version}" for name, version in versions(LIBRARIES).items())
        self.add(f"{missing} of {wanted} models to train; {software}")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds how long the block took, once it ended well, and what was warned of in it."""
        started = time.monotonic()
        with notices.in_one_line(also=self._append):
            yield
        self.add(f"{what} in {time.monotonic() - started:.1f} s")

    def _append(self, line: str) -> None:
        with suppress(OSError), (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")
