"""Engines: what runs work items, such as chunks of a fleet's models: this machine's processes, Slurm or Ray.

An engine is never part of a result: models, signals and scores are the same, to the byte, whatever ran them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from palisade.data.settings import instantiated
from palisade.targets.engines import together, worker
from palisade.targets.engines.engine import WorkEngine
from palisade.targets.engines.local import LocalEngine as LocalEngine

Result = TypeVar("Result")

_engine: WorkEngine = LocalEngine()


def choose(node: Mapping[str, Any]) -> None:
    """Sets the engine of this process from now on.

    Args:
        node: its settings, those of a file of `conf/engine`.

    Raises:
        ValueError: if there is no such engine, a setting is wrong, or what it needs is not installed.
    """
    global _engine
    _engine = instantiated("engine", node, WorkEngine)
    together.choose(_engine.devices_per_model)


def count(workers: int | str) -> int:
    """Number of work items that run at a time.

    Args:
        workers: `fleet.workers`: a number, or auto.

    Raises:
        ValueError: if several are asked for where none can be started.
    """
    return _engine.count(workers)


def sharing(workers: int | str) -> int:
    """Number of work items that share a device at a time, with `fleet.workers` as in `count`."""
    return _engine.sharing(workers)


def takes_several_runs() -> bool:
    """True if chunks of several runs may be at work together."""
    return _engine.takes_several_runs


def run(
    function: Callable[..., Result],
    items: Iterable[tuple[Any, ...]],
    workers: int | str,
    folders: Sequence[Path] = (),
) -> Iterator[Result]:
    """Yields the results of `function(*item)` as they come, by the chosen engine; within a work item, here.

    Args:
        function: importable by name; called again for an item whose worker died, so it must go on from what is there.
        items: arguments, plain values only, and never the secret of a run. Taken as workers come to need them, as far
            as the engine allows for it.
        workers: how many at a time, if the engine does not decide that; auto: as many as it has.
        folders: of the runs that the items read and write; as items are taken, more may be appended.
    """
    if worker.is_at_work():
        return (worker.called(function, item) for item in items)
    return _engine.run(function, items, count(workers), folders)


def stop() -> None:
    """Ends what the engine keeps running for later items."""
    _engine.stop()
