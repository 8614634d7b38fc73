"""Several processes at one address: started, ended, and replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from palisade.serving.metrics import say

WORKER_PREFIX = "palisade-worker-"
PAUSE_SECONDS = 1.0
"""Before a process that died is replaced."""


def supervise(work: Callable[[int], Any], workers: int) -> None:
    """Keeps so many processes at work until SIGTERM or Ctrl-C; SIGHUP goes on to each of them.

    Args:
        work: of one process, by its number; can be pickled.
        workers: how many.

    Raises:
        ValueError: where the system does not share an address among processes.
    """
    if sys.platform != "linux":
        raise ValueError(f"workers={workers}: expected 1, as only Linux shares an address among processes; choose it")
    crew = _Crew(work)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, crew.forward)
    while not crew.is_ending:
        crew.complete(workers)
        crew.bury()
    crew.join()


def tell_others() -> None:
    """Lets all workers reread the keys; does nothing in the only one."""
    if multiprocessing.current_process().name.startswith(WORKER_PREFIX):
        os.kill(os.getppid(), signal.SIGHUP)


class _Crew:
    """The processes by their numbers."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        self._work, self._context = work, multiprocessing.get_context("spawn")
        self._processes: dict[int, BaseProcess] = {}
        self.is_ending = False

    def complete(self, workers: int) -> None:
        """Starts those that are missing."""
        for k in set(range(workers)) - set(self._processes):
            self._processes[k] = self._context.Process(target=self._work, args=(k,), name=f"{WORKER_PREFIX}{k}")
            self._processes[k].start()

    def bury(self) -> None:
        """Waits until one has died."""
        wait([process.sentinel for process in self._processes.values()])
        for k in [k for k, process in self._processes.items() if not process.is_alive()]:
            code = self._processes.pop(k).exitcode
            if not self.is_ending:
                say(f"worker {k} ended with {code}; a new one starts")
                time.sleep(PAUSE_SECONDS)

    def join(self) -> None:
        """Waits until all have ended."""
        for process in self._processes.values():
            process.join()

    def forward(self, number: int, _: object) -> None:
        """Passes a signal on; all but SIGHUP end the whole."""
        self.is_ending = self.is_ending or number != signal.SIGHUP
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)
