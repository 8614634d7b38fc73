"""Settings: ranges, groups and paths, checked before anything is computed."""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")
MOST_FLOAT, MOST_INT = 3.4e38, 2**63 - 1
"""What float32 and a 64-bit integer hold."""
NUMBER = re.compile(r"(int|float)( \| None)?")
"""The annotation of a setting that is a number."""


def made(kind: type[Made], group: str, settings: Any) -> Made:
    """The dataclass that holds a group of settings.

    Args:
        kind: the dataclass.
        group: where the settings stand in the configuration, such as `fleet`.
        settings: what was given.

    Raises:
        ValueError: if it is no group, a key of it is unknown or not given, or true or false stands for a number.
    """
    check_group(group, settings)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(f"{group}.{unknown[0]} is no setting; remove it, or choose one of {', '.join(known)}")
    for key, value in settings.items():
        if isinstance(value, bool) and NUMBER.fullmatch(str(known[key].type)):
            raise ValueError(f"{group}.{key}={value} is no number; give one")
    needed = [key for key, field in known.items() if field.default is field.default_factory is MISSING]
    if absent := [key for key in needed if key not in settings]:
        raise ValueError(f"{group}.{absent[0]} is not given; add {group}.{absent[0]}=<value>")
    return kind(**settings)


@contextmanager
def named_in_full(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Puts the group before the setting that a ValueError begins with: the last of several groups that hold it."""
    try:
        yield
    except ValueError as error:
        setting = re.split(r"\W", str(error), maxsplit=1)[0]
        if not (holding := [group for group, settings in groups.items() if setting in settings]):
            raise
        raise ValueError(f"{holding[-1]}.{error}") from None


def check_group(key: str, value: Any) -> None:
    """Raises ValueError if what should hold settings is a single value."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value} is no group of settings; leave it out, or set its keys")


def check_switches(settings: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raises ValueError for one of these settings that is neither true nor false."""
    for key in keys:
        if not isinstance(settings[key], bool):
            raise ValueError(f"{key}={settings[key]} is neither true nor false; choose one of them")


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting that is NaN, or beyond what arithmetic holds; infinity may have a meaning."""
    for key, value in _numbers("", settings):
        if math.isnan(value):
            raise ValueError(f"{key}={value} is not a number; give one")
        most = MOST_FLOAT if isinstance(value, float) else MOST_INT
        if abs(value) > most and not math.isinf(value):
            raise ValueError(f"{key}={value:.3g} is too large for any use; choose at most {most:.3g}")


def _numbers(key: str, value: Any) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(key, inner)
    elif isinstance(value, int | float):
        yield key, value


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


def import_object(name: Any, *, setting: str) -> Callable[..., Any]:
    """The class, or function, of a dotted name.

    Args:
        name: such as `my_package.MyNet`.
        setting: that holds the name, for errors.

    Raises:
        ValueError: if it cannot be imported, or called.
    """
    try:
        named: Callable[..., Any] = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:  # whatever the module raises: it is the user's
        raise ValueError(
            f"{setting}={name} cannot be imported ({type(error).__name__}: {error}); give such as my_package.MyClass,"
            " with the folder of my_package in PYTHONPATH"
        ) from None
    if not callable(named):
        raise ValueError(f"{setting}={name} is no class; give such as my_package.MyClass")
    return named
