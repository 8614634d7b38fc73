"""Several processes that train one model: each takes its share of every step's records, and all have its weights.

They are started for a work item and end with it. The first of them is the worker itself, which alone writes anything.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from palisade.targets import progress

PROCESSES_VARIABLE = "PALISADE_DEVICES_PER_MODEL"
"""Variable of the environment, which workers share with the process that started them."""
RANK_VARIABLE, SIZE_VARIABLE = "LOCAL_RANK", "PALISADE_TOGETHER"
"""Variables of a process that trains together with others: its number, which Lightning reads too, and how many."""
PATIENCE_TIME = timedelta(minutes=5)
"""Time that processes which train together wait for each other, at the start or in a step."""


def choose(processes: int) -> None:
    """Sets how many processes train a model, for this process and its workers from now on."""
    os.environ[PROCESSES_VARIABLE] = str(processes)


def size() -> int:
    """Number of processes that train the present model together; 1 unless `processes` has started some."""
    return int(os.environ.get(SIZE_VARIABLE, "1"))


def rank() -> int:
    """Number of this process among them; 0 writes."""
    return int(os.environ[RANK_VARIABLE]) if size() > 1 else 0


@contextmanager
def processes(function: Callable[..., object], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Starts the other processes, if `choose` asked for any, and ends them with the block.

    Args:
        function: importable by name; trains the same models as the block does, and writes nothing.
        arguments: plain values.

    Raises:
        ChildProcessError: if another process ended before the block did; it waits `PATIENCE_TIME` at most.
    """
    count = int(os.environ.get(PROCESSES_VARIABLE, "1"))
    if count == 1:
        yield
        return
    shared = {SIZE_VARIABLE: str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    before = dict(os.environ)
    os.environ.update({**shared, RANK_VARIABLE: "0"})
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_helped, args=({**shared, RANK_VARIABLE: str(number)}, function, arguments))
        for number in range(1, count)
    ]
    try:
        for other in others:
            other.start()
        yield
    except Exception as error:
        if codes := [other.exitcode for other in others if other.exitcode]:
            raise ChildProcessError(
                f"a process that trains beside the first ended with exit code {codes[0]}; engine.devices_per_model=1"
                " trains without it"
            ) from error
        raise
    finally:
        _leave_group()
        for other in others:
            other.terminate()
            other.join()
        os.environ.clear()
        os.environ.update(before)


def _helped(environment: Mapping[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    with progress.noting(progress.WorkerNotes()):  # the first process says the same
        function(*arguments)
    _leave_group()


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
