"""Classes that a configuration names, a user's own among them, and defenses made of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, cast

from palisade.data.settings import made, named_in_full

if TYPE_CHECKING:
    from palisade.defenses.parts.base import Defense


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


def make_defense(node: Mapping[str, Any], key: str = "defense") -> Defense:
    """A defense and its base, without the settings of their trainers, which the recipes hold.

    Args:
        node: the settings.
        key: where they stand in the configuration.

    Raises:
        ValueError: if there is no such defense, or a setting is unknown or out of range.
    """
    name = node.get("_target_")
    kind = found(f"{key}._target_", name)
    if not is_dataclass(kind) or not hasattr(kind, "separable"):  # this package knows defenses by their form alone
        raise ValueError(f"{key}._target_={name} is no defense; choose one by name, or a subclass of palisade.Defense")
    settings = {setting: value for setting, value in node.items() if setting not in ("_target_", "trainer")}
    if isinstance(settings.get("base"), Mapping):
        settings["base"] = make_defense(settings["base"], f"{key}.base")
    try:
        with named_in_full({key: settings}):
            return cast("Defense", made(kind, key, settings))
    except ValueError:
        raise
    except Exception as error:  # a value of another kind, such as a word where a number is compared
        raise ValueError(f"{key} has a value of another kind than it takes ({error}); mend or remove it") from None
