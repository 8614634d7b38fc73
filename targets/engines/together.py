"""Several processes that train one model: each takes its share of every step's records, and all have its weights.

They are started for a work item and end with it. The first of them is the worker itself, which alone writes anything.
All are on one machine and meet by a file of their own: a port that was free when it was chosen may be taken since.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from palisade.targets import progress
from palisade.targets.engines import worker

PROCESSES_VARIABLE = "PALISADE_DEVICES_PER_MODEL"
"""Variable of the environment, which workers share with the process that started them."""
RANK_VARIABLE, SIZE_VARIABLE = "LOCAL_RANK", "PALISADE_TOGETHER"
"""Variables of a process that trains together with others: its number, which Lightning reads too, and how many."""
MEETING_VARIABLE = "PALISADE_MEETING"
"""Variable with the path of the file by which these processes become a group."""
INTERFACE_VARIABLE, LOOPBACK_NAMES = "GLOO_SOCKET_IFNAME", ("lo", "lo0")
"""Variable by which gloo is told the network interface to use: this machine's own, whatever its name resolves to."""
PATIENCE_TIME = timedelta(minutes=5)
"""Time that processes which train together wait for each other, at the start or in a step."""
ENDING_SECONDS = 10
"""Time that a process whose connection was lost may take to end, before the error is taken for the first one's own."""
LAST_LINES = 3
"""Lines of what a process printed last, in the error that says that it died."""


@dataclass(frozen=True)
class _Other:
    """Another process than the first, the pipe by which it says that it is here, and the file of its errors."""

    process: BaseProcess
    arrival: Connection
    errors: Path

    def reason(self) -> str | None:
        """End of this process and its last lines; None if it has done its work, or is still at it."""
        self.process.join(ENDING_SECONDS)
        if not self.process.exitcode:
            return None
        lines = self.errors.read_text(encoding="utf-8", errors="replace").splitlines() if self.errors.exists() else []
        last = " | ".join([line.strip() for line in lines if line.strip()][-LAST_LINES:]) or "nothing"
        return f"{worker.ending(self.process.exitcode)}; it printed last: {last}"


_others: list[_Other] = []
_arrival: Connection | None = None


def choose(processes: int) -> None:
    """Sets how many processes train a model, for this process and its workers from now on."""
    os.environ[PROCESSES_VARIABLE] = str(processes)


def size() -> int:
    """Number of processes that train the present model together; 1 unless `processes` has started some."""
    return int(os.environ.get(SIZE_VARIABLE, "1"))


def rank() -> int:
    """Number of this process among them; 0 writes."""
    return int(os.environ[RANK_VARIABLE]) if size() > 1 else 0


def meet() -> str:
    """Waits, in the first process, until the others are here; returns the path of the file by which they form a group.

    Raises:
        RuntimeError: if one of them has ended or does not come; `processes` says why.
    """
    if _arrival is not None:
        _arrival.send_bytes(b"here")
    for other in _others:
        if not other.arrival.poll(PATIENCE_TIME.total_seconds()):
            raise RuntimeError(f"a process that trains beside the first was not ready within {PATIENCE_TIME}")
        try:
            other.arrival.recv_bytes()
        except EOFError as error:
            raise RuntimeError("a process that trains beside the first ended before it was ready") from error
    return os.environ[MEETING_VARIABLE]


@contextmanager
def processes(function: Callable[..., object], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Starts the other processes, if `choose` asked for any, and ends them with the block.

    Args:
        function: importable by name; trains the same models as the block does, and writes nothing.
        arguments: plain values.

    Raises:
        ChildProcessError: if another process died before the block ended; the reason in one line.
    """
    count = int(os.environ.get(PROCESSES_VARIABLE, "1"))
    if count == 1:
        yield
        return
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="palisade-", ignore_cleanup_errors=True) as folder:
        shared = {SIZE_VARIABLE: str(count), MEETING_VARIABLE: f"{folder}/meeting"}
        os.environ.update({**_interface(), **shared, RANK_VARIABLE: "0"})
        try:
            for number in range(1, count):
                _others.append(_started(number, Path(folder), function, arguments))
            yield
        except RuntimeError as error:  # as of a connection that is lost; others are the first one's own
            if reasons := [reason for other in _others if (reason := other.reason()) is not None]:
                raise ChildProcessError(
                    f"engine.devices_per_model={count}: a process that trains beside the first ended {reasons[0]};"
                    " engine.devices_per_model=1 trains without it"
                ) from error
            raise
        finally:
            _leave_group()
            while _others:
                other = _others.pop()
                other.process.terminate()
                other.process.join()
            os.environ.clear()
            os.environ.update(before)


def _interface() -> dict[str, str]:
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACK_NAMES]
    return {INTERFACE_VARIABLE: names[0]} if names and INTERFACE_VARIABLE not in os.environ else {}


def _started(number: int, folder: Path, function: Callable[..., object], arguments: tuple[Any, ...]) -> _Other:
    arrival, theirs = Pipe(duplex=False)
    errors = folder / f"{number}.errors"
    environment = {**os.environ, RANK_VARIABLE: str(number)}
    process = worker.fork_server(function.__module__).Process(
        target=_helped, args=(theirs, errors, environment, str(Path.cwd()), function, arguments)
    )
    try:
        with worker.no_false_script():
            process.start()
    except (EOFError, ConnectionError) as error:  # the server died of the script that it imported
        raise ChildProcessError(worker.SCRIPT_NOT_IMPORTABLE) from error
    theirs.close()  # so that the pipe ends with the other process
    return _Other(process, arrival, errors)


def _helped(
    arrival: Connection,
    errors: Path,
    environment: Mapping[str, str],
    folder: str,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    global _arrival
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    faulthandler.enable()
    worker.begin_as_child()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _arrival = arrival
    with progress.noting(progress.WorkerNotes()):  # the first process says the same
        function(*arguments)
    _leave_group()


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
