"""Paths that a setting names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any


def place(key: str, value: Any) -> Path:
    """The path that a setting names; `~` is the user's home.

    Args:
        key: of the setting, such as `data.path`.
        value: what was given for it.

    Raises:
        ValueError: if it is no path, or the home of nobody.
    """
    if not isinstance(value, str | PathLike) or "\0" in str(value):
        raise ValueError(f"{key}={value!r} is no path; give the name of a file or folder")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{key}={value} lies in the home of nobody here; write the path in full") from None
