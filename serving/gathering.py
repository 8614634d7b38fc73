"""Work in a thread of its own on all that gathered while it was busy: what a model or a disk does best."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Gathering(Generic[Item, Outcome]):
    """A queue before a function that takes many items at once.

    Args:
        work: outcomes of some items, in their order; called in one thread, never twice at a time.
        weight: of an item.
        most: weight of what `work` gets at once, unless a single item is heavier.
    """

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Outcome]], weight: Callable[[Item], int], most: int
    ) -> None:
        self._work, self._weight, self._most = work, weight, most
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self.is_running = False
        self._thread = ThreadPoolExecutor(1)
        self.weight_waiting = 0

    async def outcome(self, item: Item) -> Outcome:
        """Outcome of an item; what `work` raises about those beside it is raised here too."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((item, future))
        self.weight_waiting += self._weight(item)
        if not self.is_running:
            self.is_running = True
            self._task = loop.create_task(self._run())
        return await future

    def close(self) -> None:
        """Ends the thread after its work."""
        self._thread.shutdown()

    async def _run(self) -> None:
        loop: Any = asyncio.get_running_loop()
        while self._waiting:
            items, futures = zip(*self._next(), strict=True)
            try:
                outcomes = await loop.run_in_executor(self._thread, self._work, list(items))
            except Exception as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, outcome in zip(futures, outcomes, strict=True):
                if not future.done():  # who asked may have gone
                    future.set_result(outcome)
        self.is_running = False

    def _next(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        taken, weight = [self._waiting.popleft()], 0
        weight = self._weight(taken[0][0])
        while self._waiting and weight + self._weight(self._waiting[0][0]) <= self._most:
            taken.append(self._waiting.popleft())
            weight += self._weight(taken[-1][0])
        self.weight_waiting -= weight
        return taken
