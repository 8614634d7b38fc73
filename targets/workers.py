"""Worker processes, one thread each, made at the first untrained run and kept for a whole sweep."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

Result = TypeVar("Result")

_pool: ProcessPoolExecutor | None = None


def count(workers: int | str) -> int:
    """The number of worker processes that `fleet.workers` means: auto is one per core under the basic launcher."""
    if workers == "auto":
        from hydra.core.hydra_config import HydraConfig

        launcher = HydraConfig.get().launcher._target_ if HydraConfig.initialized() else "BasicLauncher"
        return len(os.sched_getaffinity(0)) if launcher.endswith("BasicLauncher") else 1
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"fleet.workers={workers} is no number of processes; choose 1 or more, or auto")
    return workers


def run(function: Callable[..., Result], items: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """Yields the results of `function(*item)` as they come.

    Args:
        function: importable by name; it runs with one thread, since threads of several processes fight for cores.
        items: arguments, plain values only.
        workers: number of processes; 1 runs everything here, without a pool.
    """
    if workers == 1:
        _one_thread()
        yield from (function(*item) for item in items)
        return
    futures: list[Future[Result]] = [_processes(workers).submit(function, *item) for item in items]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        stop()
        raise


def _processes(workers: int) -> ProcessPoolExecutor:
    global _pool
    if _pool is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        _pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
        atexit.register(stop)
    return _pool


def _start() -> None:
    """Runs once in every worker. Ctrl-C reaches the whole process group; the parent alone answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _one_thread()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def stop() -> None:
    """Ends the worker processes at once."""
    global _pool
    if _pool is not None:
        pool, _pool = _pool, None
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
