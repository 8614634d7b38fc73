"""Worker processes, one thread each, made at the first untrained run and kept for a whole sweep."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from palisade.data.columns import UnknownWordsWarning
from palisade.targets.device import chosen

Result = TypeVar("Result")

WORKER_KILLED = (
    "a worker process was killed, most likely for lack of memory; choose fewer fleet.workers or a smaller"
    " trainer.batch_size"
)
SCRIPT_NOT_IMPORTABLE = (
    "a worker process could not import the script that called it; put what the script does below"
    ' `if __name__ == "__main__":`, or set fleet.workers=1'
)
EXCEPTION_EXIT_CODE = 1
"""Exit code of a process that an exception ended: none of its work, which hands exceptions back."""

_pool: ProcessPoolExecutor | None = None


def count(workers: int | str) -> int:
    """The number of worker processes: auto is one per core under the basic launcher, else 1.

    Raises:
        ValueError: if several are asked for under joblib, whose own processes can start none.
    """
    from hydra.core.hydra_config import HydraConfig

    launcher = HydraConfig.get().launcher._target_ if HydraConfig.initialized() else "BasicLauncher"
    if isinstance(workers, int):
        if workers > 1 and launcher.endswith("JoblibLauncher"):
            raise ValueError(
                f"fleet.workers={workers}: expected 1 under hydra/launcher=joblib, whose processes start none; leave it"
                " out, and choose hydra.launcher.n_jobs"
            )
        return workers
    return cores() if launcher.endswith("BasicLauncher") else 1


def count_training(workers: int | str) -> int:
    """The number of processes that train: as `count`, but auto is one on a GPU, which several would only share."""
    return 1 if workers == "auto" and chosen().type != "cpu" else count(workers)


def cores() -> int:
    """Number of cores that this process may use; macOS knows no other than all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[..., Result], items: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """Yields the results of `function(*item)` as they come.

    Args:
        function: importable by name.
        items: arguments, plain values only.
        workers: number of processes; 1, or a single item, runs here, without a pool.
    """
    if min(workers, len(items)) <= 1:
        yield from (_call(function, item) for item in items)
        return
    pool = _processes(workers, function.__module__)
    environment = dict(os.environ)  # as it is now: forks have that in which their server was started
    with _no_false_script():
        futures: list[Future[Result]] = [pool.submit(_work, environment, function, item) for item in items]
    processes = list(pool._processes.values())
    try:
        for future in as_completed(futures):
            yield future.result()
    except BaseException as error:
        for future in futures:
            future.cancel()
        stop()
        if isinstance(error, BrokenProcessPool):
            raised = any(process.exitcode == EXCEPTION_EXIT_CODE for process in processes)
            raise ChildProcessError(SCRIPT_NOT_IMPORTABLE if raised else WORKER_KILLED) from error
        raise


@contextmanager
def _no_false_script() -> Iterator[None]:
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


def _work(environment: dict[str, str], function: Callable[..., Result], item: tuple[Any, ...]) -> Result:
    os.environ.clear()
    os.environ.update(environment)
    return _call(function, item)


def _call(function: Callable[..., Result], item: tuple[Any, ...]) -> Result:
    """Raises what went wrong itself, as a bad input where a setting is: Hydra's wrapping is lost between processes."""
    from hydra.errors import InstantiationException

    try:
        return function(*item)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        raise ValueError(" ".join(str(error).split())) from None
    except SystemExit as ended:  # of an own network: with exit code 0 the command would end as if all were done
        raise ValueError(f"code of this run called sys.exit({ended.code}); let it raise an error instead") from ended


def _processes(workers: int, module: str) -> ProcessPoolExecutor:
    global _pool
    if _pool is None:
        os.environ["OMP_NUM_THREADS"] = "1"  # threads of several processes fight for cores
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", module])  # torch is imported once, not by every process
        _pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
        atexit.register(stop)
    return _pool


def _start() -> None:
    """Ctrl-C reaches the whole process group; the parent alone answers it, and alone warns of what it has read itself.
    No worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", UnknownWordsWarning)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends the process with its parent: a killed one cannot stop its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def stop() -> None:
    """Ends the worker processes at once."""
    global _pool
    if _pool is not None:
        pool, _pool = _pool, None
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
