"""Several processes at one address: started, ended, and replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from palisade.serving.metrics import say

WORKER_PREFIX = "palisade-worker-"
PAUSE_SECONDS = 1.0
"""Before a process that died is replaced."""
MAX_FAILED_STARTS = 2
"""Ends of a worker before it served, one after the other, that end the whole."""
BAD_INPUT_CODE = 2
Work = Callable[[int, Callable[[], None]], Any]
"""Work of one process, by its number; it calls its second argument when it serves. It can be pickled."""


def supervise(work: Work, workers: int, listener: socket.socket) -> None:
    """Keeps so many processes at work until SIGTERM or Ctrl-C; SIGHUP goes on to each of them.

    Args:
        work: of one process.
        workers: how many.
        listener: at which they listen, closed when they end.

    Raises:
        ValueError: where several processes were never tried, or a worker ends before it serves, and
            its replacement does too: with its reason.
    """
    if sys.platform != "linux":
        raise ValueError(f"workers={workers}: expected 1, as several were tried on Linux alone; choose it")
    crew = _Crew(work)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, crew.forward)
    hear_reloads()
    while not crew.is_ending:
        crew.complete(workers)
        crew.bury()
    listener.close()
    crew.join()
    if crew.reason is not None:
        raise ValueError(f"workers={workers}: expected workers that start, and one ended twice: {crew.reason}")


def tell_others() -> None:
    """Lets all workers reread the keys; does nothing in the only one."""
    if multiprocessing.current_process().name.startswith(WORKER_PREFIX):
        os.kill(os.getppid(), signal.SIGHUP)


def hold_reloads() -> None:
    """Keeps SIGHUP waiting, in this process and in those that it starts: before anybody hears it, it would kill."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def hear_reloads() -> None:
    """Lets SIGHUP come, one that waits at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class _Worker(NamedTuple):
    """One process, and what it says: None when it serves, or its reason to end."""

    process: BaseProcess
    says: Connection

    def heard(self) -> list[str | None]:
        """All that it said."""
        heard: list[str | None] = []
        while self.says.poll():
            try:
                heard.append(self.says.recv())
            except EOFError:
                break
        return heard


class _Crew:
    """The processes by their numbers."""

    def __init__(self, work: Work) -> None:
        self._work, self._context = work, multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}
        self._failed_starts: Counter[int] = Counter()
        self.is_ending = False
        self.reason: str | None = None

    def complete(self, workers: int) -> None:
        """Starts those that are missing."""
        hold_reloads()
        for k in set(range(workers)) - set(self._workers):
            hears, says = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_begin, args=(self._work, k, says), name=f"{WORKER_PREFIX}{k}")
            process.start()
            says.close()
            self._workers[k] = _Worker(process, hears)
            if self.is_ending:  # since the signal came, which this one did not get
                process.terminate()
        hear_reloads()

    def bury(self) -> None:
        """Waits until one has died."""
        wait([worker.process.sentinel for worker in self._workers.values()])
        for k in [k for k, worker in self._workers.items() if not worker.process.is_alive()]:
            worker = self._workers.pop(k)
            heard, code = worker.heard(), worker.process.exitcode
            worker.says.close()
            self._failed_starts[k] = 0 if None in heard else self._failed_starts[k] + 1
            if self.is_ending:
                continue
            if self._failed_starts[k] >= MAX_FAILED_STARTS:
                self.reason = next(filter(None, heard), f"exit code {code} before it served; look at the lines above")
                self.forward(signal.SIGTERM, None)
                return
            say(f"worker {k} ended with {code}; a new one starts")
            time.sleep(PAUSE_SECONDS)

    def join(self) -> None:
        """Waits until all have ended."""
        for worker in self._workers.values():
            worker.process.join()

    def forward(self, number: int, _: object) -> None:
        """Passes a signal on; all but SIGHUP end the whole."""
        self.is_ending = self.is_ending or number != signal.SIGHUP
        for worker in self._workers.values():
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, number)


def _begin(work: Work, number: int, says: Connection) -> None:
    """Work in a new process; bad input ends it in one line, which the parent prints once."""
    try:
        work(number, lambda: says.send(None))
    except (ValueError, OSError) as error:
        says.send(" ".join(str(error).split()))
        sys.exit(BAD_INPUT_CODE)
