"""Targets: the models that are trained and released."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

RESULTS_VERSION = 6
"""Part of every run's name; raised when a change makes the same configuration give other models."""


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Versions of Python, of this project and of libraries, by their names."""
    return {
        "python": platform.python_version(),
        "palisade": version("palisade-privacy"),
        **{name: version(name) for name in libraries},
    }
