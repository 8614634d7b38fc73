"""Checks of an evaluation's settings before any of them is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palisade.data.settings import check_group, check_numbers, check_switches, place

NEEDED = ("attack", "threat", "root", "reports", "released")
GROUPS = ("attack", "threat", "report", "choose", "gate")
OPTIONAL = ("data", "network", "study", "audit", "search")
PLACES = ("runs", "root", "reports", "released", "name")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting that is empty, or of a kind that nothing can be done with."""
    for key in NEEDED:
        if not settings.get(key):
            raise ValueError(f"{key} is empty; leave it out for the default")
    check_numbers(settings)
    check_switches(settings, ("quiet", "plan"))
    if settings["plan"] and (other := next((key for key in ("study", "audit", "search") if settings.get(key)), None)):
        raise ValueError(f"plan=true counts what attacks on runs train, not {other}=…; leave one of them out")
    for key in (*GROUPS, *(key for key in OPTIONAL if settings.get(key) is not None)):
        check_group(key, settings[key])
    for name, node in settings["attack"].items():
        check_group(f"attack.{name}", node)
    _check_data(settings.get("data"))
    for key in (key for key in PLACES if settings.get(key) is not None):
        place(key, settings[key])
    _check_folder_names(settings)


def _check_data(data: Mapping[str, Any] | None) -> None:
    if data is not None:
        if not data.keys() & {"name", "path"}:
            raise ValueError(f"data={dict(data)} names no data set; choose data=<name>")
        for key in (key for key in ("name", "path") if data.get(key) is not None):
            place(f"data.{key}", data[key])


def _check_folder_names(settings: Mapping[str, Any]) -> None:
    named = {"name": settings["name"]} if settings.get("name") is not None else {}
    if (search := settings.get("search")) is not None:
        named["search.name"] = search.get("name")
    for key, name in named.items():
        if not is_folder_name(name):
            raise ValueError(f"{key}={name} is no name of a folder in {settings['reports']}; choose one without /")


def is_folder_name(name: Any) -> bool:
    """Fitness of a setting as the name of one folder, without a path."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name
