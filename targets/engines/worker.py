"""What every worker does with its items, whatever engine started it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

_at_work = False


def is_at_work() -> bool:
    """True in a process that an engine started: it starts none itself."""
    return _at_work


def begin() -> None:
    """Called once by a process that an engine started."""
    global _at_work
    _at_work = True


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
