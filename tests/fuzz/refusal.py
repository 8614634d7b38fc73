"""Refusal of bad input."""

from __future__ import annotations

from collections.abc import Callable

from palisade.commandline import is_bad_input, one_line


def refusal(command: Callable[[], object], longest: int) -> str | None:
    """The one line in which a command refuses its input, None if it takes it; any other error is raised again."""
    try:
        command()
    except Exception as error:
        if not is_bad_input(error):
            raise
        line = one_line(error)
        assert "\n" not in line and 10 < len(line) < longest
        return line
    return None
