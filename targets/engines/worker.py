"""Work of every worker, whatever engine started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from palisade.targets import progress

Result = TypeVar("Result")

_at_work = False


def is_at_work() -> bool:
    """True in a process that an engine started: it starts none itself."""
    return _at_work


def begin() -> None:
    """Called once by a process that an engine started."""
    global _at_work
    _at_work = True


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
