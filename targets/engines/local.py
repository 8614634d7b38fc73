"""Worker processes of this machine, one thread each, made at the first untrained run and used for a whole sweep."""

from __future__ import annotations

import atexit
import math
import os
import pickle
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from palisade.data.columns import UnknownWordsWarning
from palisade.fields import Count
from palisade.targets import progress
from palisade.targets.device import DEVICE_VARIABLE
from palisade.targets.engines import worker
from palisade.targets.engines.engine import MAX_ATTEMPTS, WorkEngine

Result = TypeVar("Result")
Item = tuple[Any, ...]

WORKER_KILLED = (
    "a worker process was killed twice, most likely for lack of memory; choose fewer fleet.workers or a smaller"
    " trainer.batch_size"
)
EXCEPTION_EXIT_CODE = 1
"""Exit code of a process that an exception ended: none of its work, which hands exceptions back."""
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Variable of the environment by which CUDA sees some GPUs alone, numbered anew."""

ITEMS_AHEAD = 2
"""Items that wait beside those that are at work, so that no worker waits while the next are begun."""

_pool: ProcessPoolExecutor | None = None
_own_environment: dict[str, str] = {}
"""Variables of this worker that differ from those of others: its GPU."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine(WorkEngine):
    """Processes of this machine: one for each core, or `per_gpu` for each of its GPUs.

    A worker has one GPU, the first worker the first, and so on; with more workers than GPUs they begin again. CUDA is
    first called in the workers, which see no other GPU than theirs.

    Args:
        per_gpu: workers that share a GPU, each with an equal part of its memory.
    """

    per_gpu: Count = 1

    def count(self, workers: int | str) -> int:
        """Number of processes: auto is `per_gpu` for each GPU, or else one per core, under the basic launcher, else 1.

        Raises:
            ValueError: if several are asked for under joblib, whose own processes can start none.
        """
        from hydra.core.hydra_config import HydraConfig

        launcher = HydraConfig.get().launcher._target_ if HydraConfig.initialized() else "BasicLauncher"
        if isinstance(workers, int):
            if workers > 1 and launcher.endswith("JoblibLauncher"):
                raise ValueError(
                    f"fleet.workers={workers}: expected 1 under hydra/launcher=joblib, whose processes start none;"
                    " leave it out, and choose hydra.launcher.n_jobs"
                )
            return workers
        if not launcher.endswith("BasicLauncher"):
            return 1
        if gpus := max(len(self._gpus()), is_one_gpu()):
            return gpus * self.per_gpu
        return max(cores() // self.devices_per_model, 1)

    @property
    def takes_several_runs(self) -> bool:
        """Not on GPUs: how many models a stack of the next run has is measured on one, which must be idle then."""
        return not self._gpus() and not is_one_gpu()

    def sharing(self, workers: int | str) -> int:
        """Number of processes that share a device: all that are not spread over GPUs."""
        return math.ceil(self.count(workers) / max(len(self._gpus()), 1))

    def run(
        self, function: Callable[..., Result], items: Iterable[Item], workers: int, folders: Sequence[Path]
    ) -> Iterator[Result]:
        """Yields results as they come; 1 worker, or a single item, runs here, without a pool.

        Items that a dead worker left undone, and the pool that ends with it, are run once more by new processes.
        """
        waiting = iter(items)
        first = list(islice(waiting, 2 if workers > 1 else 0))
        waiting = chain(first, waiting)
        if len(first) <= 1:
            return (worker.called(function, item) for item in waiting)
        return self._pooled(function, enumerate(waiting), workers)

    def _pooled(
        self, function: Callable[..., Result], numbered: Iterator[tuple[int, Item]], workers: int
    ) -> Iterator[Result]:
        left, deaths = dict[int, Item](), Counter[int]()
        while True:
            futures: dict[Future[Result], int] = {}
            processes: dict[int, BaseProcess] = {}
            try:
                for number, item in [*left.items(), *islice(numbered, workers + ITEMS_AHEAD - len(left))]:
                    left[number] = item
                    futures[self._submitted(function, item, workers, processes)] = number
                while futures:
                    for future in wait_for(futures, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del left[futures.pop(future)]
                        for number, item in islice(numbered, 1):
                            left[number] = item
                            futures[self._submitted(function, item, workers, processes)] = number
                        yield result
                return
            except BaseException as error:
                for future in futures:
                    future.cancel()
                self.stop()
                if not isinstance(error, BrokenProcessPool):
                    raise
                deaths.update(left.keys())
                reason = _reason(processes.values())
                if max(deaths.values()) == MAX_ATTEMPTS or reason == worker.SCRIPT_NOT_IMPORTABLE:
                    raise ChildProcessError(reason) from error
                progress.say("a worker process died; what it left is run once more")

    def stop(self) -> None:
        """Ends the worker processes at once."""
        stop()

    def _gpus(self) -> list[str]:
        """The GPUs of each worker, in turn: as many as train a model together."""
        names, size = gpus(), self.devices_per_model
        return [",".join(names[start : start + size]) for start in range(0, len(names) - size + 1, size)]

    def _submitted(
        self, function: Callable[..., Result], item: Item, workers: int, processes: dict[int, BaseProcess]
    ) -> Future[Result]:
        """The item on its way, with all that the environment holds now: forks have that of their server's start."""
        pool = self._processes(workers, function.__module__)
        with worker.no_false_script():
            future = pool.submit(_work, dict(os.environ), pickle.dumps((function, item)))
            pool.submit(int)  # or nobody watches over the last process, which started after its item was queued
        processes |= pool._processes
        return future

    def _processes(self, workers: int, module: str) -> ProcessPoolExecutor:
        global _pool
        if _pool is None:
            context = worker.fork_server(module)
            shared = (self._gpus(), self.per_gpu, context.Value("i", 0))
            _pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=shared)
            atexit.register(stop)
        return _pool


def stop() -> None:
    """Ends the worker processes at once."""
    global _pool
    if _pool is not None:
        pool, _pool = _pool, None
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Number of cores that this process may use; macOS knows no other than all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs to hand out, as `CUDA_VISIBLE_DEVICES` names them; none where another device was chosen, or one GPU."""
    if os.environ.get(DEVICE_VARIABLE, "cpu") not in ("auto", "cuda"):
        return []
    if (visible := os.environ.get(GPU_VARIABLE)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def is_one_gpu() -> bool:
    """True if one GPU was chosen for all workers, by its number or as that of a Mac."""
    return os.environ.get(DEVICE_VARIABLE, "cpu") not in ("auto", "cpu", "cuda")


def _reason(processes: Iterable[BaseProcess]) -> str:
    """Reason why the pool of these processes broke; the pool itself ends the others by SIGTERM."""
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
    if EXCEPTION_EXIT_CODE in codes:
        return worker.SCRIPT_NOT_IMPORTABLE
    code = codes[0] if codes else -signal.SIGTERM
    if code == -signal.SIGKILL:
        return WORKER_KILLED
    how = worker.ending(code)
    return f"a worker process ended twice {how}, which none of its work does; fleet.workers=1 shows where"


def _work(environment: dict[str, str], work: bytes) -> Any:
    os.environ.clear()
    os.environ.update(environment | _own_environment)
    try:
        function, item = pickle.loads(work)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"a worker process could not load its work ({error}); put the function into a file that it can import"
        ) from error
    return worker.called(function, item)


def _start(devices: Sequence[str], per_gpu: int, started: Any) -> None:
    """Of unknown words in the data the parent alone warns, which has read them itself."""
    worker.begin_as_child()
    warnings.simplefilter("ignore", UnknownWordsWarning)
    if devices:
        with started.get_lock():
            number, started.value = started.value, started.value + 1
        take_gpu(devices[number % len(devices)], per_gpu)


def take_gpu(name: str, per_gpu: int) -> None:
    """Makes one GPU the only one of this process, which has not called CUDA yet; or some, that train together.

    Args:
        name: of the GPU, or their names with commas, as `CUDA_VISIBLE_DEVICES` names it.
        per_gpu: processes that share it, each with an equal part of its memory.
    """
    _own_environment[GPU_VARIABLE] = os.environ[GPU_VARIABLE] = name
    if per_gpu > 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(1 / per_gpu)
