"""Protocol of engines: results of a function for many items, as they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from palisade.fields import CheckedFields, Count

Result = TypeVar("Result")

MAX_ATTEMPTS = 2
"""Runs of an item whose worker died, at most; what it raises itself is never tried again."""


@dataclass(frozen=True, kw_only=True)
class WorkEngine(CheckedFields, ABC):
    """Runs work items somewhere; it decides nothing about what comes out.

    Args:
        devices_per_model: processes, with a device each where there are GPUs, that train a model together.
    """

    devices_per_model: Count = 1

    @abstractmethod
    def count(self, workers: int | str) -> int:
        """Number of items that run at a time.

        Args:
            workers: a number, or auto: as many as the engine has room for.

        Raises:
            ValueError: if several are asked for where none can be started.
        """

    @abstractmethod
    def run(
        self, function: Callable[..., Result], items: Iterable[tuple[Any, ...]], workers: int, folders: Sequence[Path]
    ) -> Iterator[Result]:
        """Yields the results of `function(*item)` as they come.

        Args:
            function: importable by name; called again for an item whose worker died.
            items: arguments, plain values only.
            workers: how many at a time.
            folders: of the runs that the items read and write; as items are taken, more may be appended.

        Raises:
            ChildProcessError: if workers died for an item in every attempt; the reason in one line.
            Exception: whatever the function raises; nothing goes on then.
        """

    @property
    def takes_several_runs(self) -> bool:
        """True if chunks of several runs may be at work together."""
        return True

    def sharing(self, workers: int | str) -> int:
        """Number of work items that share a device at a time."""
        return 1

    def stop(self) -> None:
        """Ends what is kept running for later items, if anything is."""
