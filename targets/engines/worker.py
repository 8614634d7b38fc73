"""Work of every worker, whatever engine started it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

from palisade.targets import progress

Result = TypeVar("Result")

SCRIPT_NOT_IMPORTABLE = (
    "a worker process could not import the script that called it; put what the script does below"
    ' `if __name__ == "__main__":`, or set fleet.workers=1'
)

_at_work = False


def is_at_work() -> bool:
    """True in a process that an engine started: it starts none itself."""
    return _at_work


def begin() -> None:
    """Called once by a process that an engine started."""
    global _at_work
    _at_work = True


def begin_as_child() -> None:
    """Called once by a process of this machine: Ctrl-C reaches the whole process group and its parent alone answers it,
    and it does not outlive its parent."""
    begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends the process with its parent: a killed one cannot stop its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def fork_server(module: str) -> ForkServerContext:
    """Starts processes as forks of a server that has imported the script and a module, and started nothing: no CUDA."""
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of several processes fight for cores
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", module])  # torch is imported once, not by every process
    return context


@contextmanager
def no_false_script() -> Iterator[None]:
    """Hides the name of a script that is no file, such as `<stdin>`, which processes that start would look for."""
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None)
    if path is None or Path(path).exists():
        yield
        return
    del script.__file__
    try:
        yield
    finally:
        script.__file__ = path


def ending(code: int) -> str:
    """End of a process in words: its exit code, or the signal that ended it."""
    if code >= 0:
        return f"with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"by {names.get(-code, f'signal {-code}')}"


@dataclass
class Outcome:
    """Outcome of an item, on its way from another machine.

    Args:
        notes: lines of progress and of logs, whether it ended well or not.
        result: of the function.
        error: that it raised.
    """

    notes: progress.WorkerNotes
    result: Any = None
    error: BaseException | None = None

    def delivered(self) -> Any:
        """The result, once the notes are where they belong; raises what the function raised."""
        self.notes.deliver()
        if self.error is not None:
            raise self.error
        return self.result


def outcome(function: Callable[..., Any], item: tuple[Any, ...], notes: progress.WorkerNotes) -> Outcome:
    """Outcome of an item in a worker that shares neither files of progress nor the terminal.

    Args:
        function: of the item.
        item: its arguments.
        notes: takes up what is said meanwhile.
    """
    begin()
    with progress.noting(notes):
        try:
            return Outcome(notes, result=called(function, item))
        except (Exception, KeyboardInterrupt) as error:
            return Outcome(notes, error=error)


def called(function: Callable[..., Result], item: tuple[Any, ...]) -> Result:
    """The result of an item.

    Raises what went wrong itself, as a bad input where a setting is: Hydra's wrapping is lost between processes.
    """
    from hydra.errors import InstantiationException

    try:
        return function(*item)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        raise ValueError(" ".join(str(error).split())) from None
    except SystemExit as ended:  # of an own network: with exit code 0 the command would end as if all were done
        raise ValueError(f"code of this run called sys.exit({ended.code}); let it raise an error instead") from ended
    except Exception as error:
        if _travels(error):
            raise
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"{type(error).__name__}: {error}") from error


def _travels(error: Exception) -> bool:
    """True if another process can make this error from its pickle; some classes of errors have an `__init__` that no
    pickle knows the arguments of, and whoever waits for the worker would take it for dead."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
