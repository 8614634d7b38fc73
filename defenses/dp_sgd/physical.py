"""Stand-in for the user's training_step: logical batches of any size, none included, on a network that is not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from palisade.defenses.dp_sgd.batches import part


class PhysicalBatches:
    """Runs the user's training_step on parts of a batch, and not at all on an empty one.

    The sums of all parts are the sum of the batch, so noise and accountant see one step. User code rarely copes with
    empty batches, and whether one occurs depends on the records; with the sum being zeros the step is noise alone.

    Args:
        training_step: the user's.
        shape: returns the rows of a batch, (batch,) or (models, batch).
        unit_rows: rows of a batch, side by side, that may not be parted.
        at_once: rows of a part, at most; None for whole batches.
        clip: called with each part's shape after its backward pass, except the last, which Lightning runs.
        clear: called before every backward pass that Lightning does not run.
        check: raises if a batch has not the rows that were asked for.
    """

    def __init__(
        self,
        training_step: Callable[..., Any],
        *,
        shape: Callable[[Any], tuple[int, ...]],
        unit_rows: int,
        at_once: int | None,
        clip: Callable[[tuple[int, ...]], None],
        clear: Callable[[], None],
        check: Callable[[Any], object],
    ) -> None:
        self.training_step, self.shape = training_step, shape
        self.clip, self.clear, self.check = clip, clear, check
        self.at_once = None if at_once is None else max(at_once // unit_rows, 1) * unit_rows
        self.rows: tuple[int, ...] = ()
        """The shape of the part whose backward pass comes next."""
        self.whole: tuple[int, ...] = ()
        """That of the batch."""

    @property
    def empty(self) -> bool:
        """Absence of records in the part whose backward pass comes next."""
        return math.prod(self.rows) == 0

    def automatic(self) -> Callable[..., Any]:
        """For Lightning's own backward and step; the loss of the last part is what is left to it."""

        @functools.wraps(self.training_step)
        def training_step(batch: Any, *rest: Any) -> Any:
            self.check(batch)
            self.rows = self.whole = whole = self.shape(batch)
            if self.empty:
                return torch.zeros((), requires_grad=True)
            at_once = self.at_once or whole[-1]
            for start in range(0, whole[-1], at_once):
                stop = min(start + at_once, whole[-1])
                self.rows = (*whole[:-1], stop - start)
                physical = batch if self.rows == whole else part(batch, start, stop, of=whole)
                loss = self.training_step(physical, *rest)
                if loss is None:
                    raise ValueError(
                        "training_step returned None; a step may not depend on the records, return the loss"
                    )
                if stop < whole[-1]:
                    self.clear()
                    (loss["loss"] if isinstance(loss, dict) else loss).backward()
                    self.clip(self.rows)
            return loss

        return training_step

    def manual(self, *, step: Callable[[], object]) -> Callable[..., Any]:
        """For a training_step that calls backward and step itself.

        Args:
            step: takes a step with noise alone.
        """

        @functools.wraps(self.training_step)
        def training_step(batch: Any, *rest: Any) -> Any:
            self.check(batch)
            self.rows = self.whole = self.shape(batch)
            if self.empty:
                return step()
            return self.training_step(batch, *rest)

        return training_step
