"""Classes that a configuration names, a user's own among them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any


def found(key: str, name: Any) -> Callable[..., Any]:
    """The class, or function, of a dotted name.

    Args:
        key: of the setting that holds the name.
        name: such as `my_package.MyNet`.

    Raises:
        ValueError: if it cannot be imported, or called.
    """
    try:
        named: Callable[..., Any] = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:  # whatever the module raises: it is the user's
        raise ValueError(
            f"{key}={name} cannot be imported ({type(error).__name__}: {error}); give such as my_package.MyClass,"
            " with the folder of my_package in PYTHONPATH"
        ) from None
    if not callable(named):
        raise ValueError(f"{key}={name} is no class; give such as my_package.MyClass")
    return named
