"""Settings: ranges, groups and paths, checked before anything is computed."""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from palisade.fields import as_written, check_values, field_names

Group = TypeVar("Group")
ABSENT_VALUE = "???"
"""Value of a mandatory setting that was left out, in Hydra's configuration."""
MAX_REASON_CHARACTERS = 300
"""Letters of what a class raised: some of torch's go on for pages."""
HYDRA_KEYS = ("_target_", "_partial_")
"""Keys of a node that say how Hydra makes something of it."""
MAX_FLOAT32, MAX_INT64 = 3.4e38, 2**63 - 1
"""Largest values of float32 and of a 64-bit integer."""


def validated(kind: type[Group], key: str, settings: Any, homes: Mapping[str, str] | None = None) -> Group:
    """The dataclass that holds a group of settings.

    Args:
        kind: the dataclass.
        key: where the settings stand in the configuration, such as `fleet`; empty for its top level.
        settings: its values; `???` stands for one that is missing.
        homes: other groups, by the names of single settings that stand there.

    Raises:
        ValueError: if it is no group, or a setting is unknown, missing, or wrong by its type or the dataclass's rules.
    """
    check_group(key, settings)
    own = {name: value for name, value in settings.items() if not is_absent(value)}
    groups = dict.fromkeys((*field_names(kind), *own), key) | dict(homes or {})
    check_values(kind, own, lambda name: full_key(groups[name], name))
    if absent := [
        name for name in settings if name not in own
    ]:  # it has a default, but the user said that there is none
        setting = full_key(key, absent[0])
        raise ValueError(f"{setting}={ABSENT_VALUE}: expected a value; give one, or leave it out")
    with named_in_full(groups):
        check_numbers({name: value for name, value in own.items() if isinstance(value, int | float)})
        return kind(**own)


def instantiated(key: str, node: Any, kind: type[Group], *arguments: Any, **named: Any) -> Group:
    """The instance of a node with a `_target_`: the one place that imports and calls the class that settings name.

    Args:
        key: where the node stands in the configuration, such as `attack.lira`.
        node: `_target_`, the dotted name of a class or function, and its settings; those with a `_target_` of their own
            are made first.
        kind: of what must come out.
        arguments: passed besides the settings, first.
        named: passed besides the settings, by name.

    Raises:
        ValueError: if it cannot be imported, its settings are wrong (of a dataclass by their types, of others by the
            signature), it refuses them, or something else comes out.
    """
    check_group(key, node)
    make, target = import_object(node.get("_target_"), setting=f"{key}._target_"), f"{key}._target_={node['_target_']}"
    wanted = f"{target}: expected a class of {kind.__module__}.{kind.__qualname__}; name one"
    if isinstance(make, type) and not issubclass(make, kind):
        raise ValueError(wanted)
    own = {name: value for name, value in node.items() if name not in HYDRA_KEYS and not is_absent(value)}
    own = {name: _instance_of_node(f"{key}.{name}", value) for name, value in own.items()}
    try:
        if isinstance(make, type) and is_dataclass(make):
            instance: Any = validated(make, key, {**own, **named})
        else:
            check_values(make, own, lambda name: f"{key}.{name}", len(arguments), named)
            with named_in_full(dict.fromkeys(own, key)):
                instance = make(*arguments, **own, **named)
    except (OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # whatever the class raises: it may be the user's
        if isinstance(error, ValueError) and str(error).startswith(key):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARACTERS]
        with_what = ", ".join(f"{name}={as_written(value)}" for name, value in {**named, **own}.items())
        raise ValueError(f"{target}: cannot be made with {with_what} ({reason}); fix these, or the class") from error
    if not isinstance(instance, kind):
        raise ValueError(wanted)
    return instance


def is_absent(value: Any) -> bool:
    """True for what Hydra has in place of a setting that must be given."""
    return isinstance(value, str) and value == ABSENT_VALUE


def _instance_of_node(key: str, value: Any) -> Any:
    return instantiated(key, value, object) if isinstance(value, Mapping) and "_target_" in value else value


@contextmanager
def named_in_full(groups: Mapping[str, str]) -> Iterator[None]:
    """Puts its group before the setting that a ValueError begins with.

    Args:
        groups: the group of each setting, by its name.
    """
    try:
        yield
    except ValueError as error:
        setting = re.split(r"\W", str(error), maxsplit=1)[0]
        if setting not in groups:
            raise
        raise ValueError(full_key(groups[setting], str(error))) from None


def full_key(group: str, name: str) -> str:
    """The name of a setting with its group, if it stands in one."""
    return f"{group}.{name}" if group else name


def check_group(key: str, value: Any) -> None:
    """Raises ValueError if what should hold settings is a single value."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={as_written(value)}: expected a group of settings; leave it out, or set its keys")


def check_switches(settings: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raises ValueError for one of these settings that is neither true nor false."""
    for key in keys:
        if not isinstance(settings[key], bool):
            raise ValueError(f"{key}={as_written(settings[key])}: expected true or false; choose one of them")


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting that is NaN, or beyond what arithmetic holds; infinity may have a meaning."""
    for key, value in _numbers("", settings):
        if math.isnan(value):
            raise ValueError(f"{key}={value}: expected a number; choose one, or leave it out")
        most = MAX_FLOAT32 if isinstance(value, float) else MAX_INT64
        if abs(value) > most and not math.isinf(value):
            raise ValueError(f"{key}={value:.3g}: expected a number of at most {most:.3g}; choose a smaller one")


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
        value: its value.

    Raises:
        ValueError: if it is no path, or the home of an unknown user.
    """
    if not isinstance(value, str | PathLike) or "\0" in str(value):
        raise ValueError(f"{key}={value!r}: expected a path; give the name of a file or folder")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{key}={value}: expected the home of a user of this machine; write the path in full"
        ) from None


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
            f"{setting}={as_written(name)}: cannot be imported ({type(error).__name__}: {error}); give such as"
            " my_package.MyClass, with the folder of my_package in PYTHONPATH"
        ) from None
    if not callable(named):
        raise ValueError(f"{setting}={name}: expected a class; give such as my_package.MyClass")
    return named
