"""Own code and files that settings name: on machines without a common folder they must lie on every node."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

PLACES_KEY = "network"
"""Key of settings whose texts may be places of files, such as weights; data travel."""


INSTALLED_MODULES = ("palisade", "torch")
"""Modules of settings that every node has anyway."""


class OwnFile(NamedTuple):
    """A module or file that a setting names.

    Args:
        setting: in full, such as `network._target_`.
        value: of it.
        module: its top-level module; None: `value` is a path.
    """

    setting: str
    value: str
    module: str | None = None

    @property
    def is_here(self) -> bool:
        """True on a machine that has it."""
        if self.module is None:
            return Path(self.value).exists()
        try:
            return importlib.util.find_spec(self.module) is not None
        except (ImportError, ValueError):
            return False

    def lacking(self, node: str) -> str:
        """The line that a node lacks it."""
        remedy = "put it there at the same place" if self.module is None else "install it there"
        return f"{self.setting}={self.value}: expected on every node of engine=ray, and {node} has none; {remedy}"


def own_files(value: Any, key: str = "") -> Iterator[OwnFile]:
    """Everything of that kind that settings name, wherever it stands in them.

    Args:
        value: settings, plain or as dataclasses.
        key: where they stand.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "data":  # which travel
                yield from own_files(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from own_files(inner, key)
    elif isinstance(value, str):
        if key.endswith("_target_") and (module := value.split(".")[0]) not in INSTALLED_MODULES:
            yield OwnFile(key, value, module)
        elif key.startswith(f"{PLACES_KEY}.") and Path(value).exists():
            yield OwnFile(key, value)


def missing_here(files: Iterable[OwnFile]) -> list[OwnFile]:
    """The first of them that this machine lacks, if it lacks any."""
    return [file for file in files if not file.is_here][:1]
