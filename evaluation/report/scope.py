"""Scopes of a report: everything inside, and outside nothing that names a record or counts members."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from palisade.evaluation.comparison import ordered
from palisade.evaluation.result import REPORTED_FPRS, TRAIN_ACCURACY, UNSCORED_SHARE, Result, Row, chance_at, null_at
from palisade.targets.base_model import BASE_KEY, PATH_KEY
from palisade.targets.run import PLACE_KEYS, TOKENS_KEY

INTERNAL_SCOPE, PUBLIC_SCOPE = "internal", "public"
SCOPE_NOTES: Mapping[str, str] = {
    INTERNAL_SCOPE: "These numbers were measured on private records and depend on them; no guarantee covers the report"
    " itself. Do not publish it.",
    PUBLIC_SCOPE: "Left out: which records are exposed, plots and tables of single records, accuracy on members and in"
    " trials, values of single models, how many members each model really had (numbers of members are expected ones),"
    " how many records a class or slice of private data has, groups of fewer than 100 records, folders of runs and any"
    " other hash of private data. Numbers are rounded to three digits. They were still measured on private records, and"
    " no guarantee covers the report itself.",
}
"""The notice on each scope."""
NOT_COVERED = (
    "the report: its numbers were measured on private records, which rounding does not hide, and the words of its"
    " slices were read off them"
)
"""A further restriction of the claims in a public report on private data."""
MEMBER_METRICS = (TRAIN_ACCURACY,)
"""Metrics that are about members alone."""
COUNT_METRICS = tuple(name(fpr) for fpr in REPORTED_FPRS for name in (chance_at, null_at))
"""Metrics that follow from the number of non-members, which a group of private data does not disclose."""
MIN_GROUP_RECORDS = 100
"""Records of the smallest group whose numbers are published: they say little about any one record."""
PUBLISHED_DIGITS = 3
ROC_START_FPRS = tuple(digit * 10.0**power for power in range(-6, 0) for digit in (1, 2, 5))
"""FPRs at which a published ROC may begin: one false positive would disclose how many non-members a model has."""
PRIVATE_PLACES = {"data": (*PLACE_KEYS, TOKENS_KEY), "network": (BASE_KEY, PATH_KEY)}
"""Settings of groups that name places."""
PRIVATE_KEYS = (
    *("runs", "root", "reports", "released", "hydra.searchpath"),
    *(f"{group}.{key}" for group, keys in PRIVATE_PLACES.items() for key in keys),
)
"""Keys of a command that name places, or runs by a hash of their data."""


def check_scope_of(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if there is no such `report.scope`, or what is written instead of a report is for insiders."""
    scope = checked_scope(settings["report"].get("scope"))
    for instead in ("audit", "study", "search"):
        if scope == PUBLIC_SCOPE and settings.get(instead):
            raise ValueError(
                f"report.scope={scope}: expected {INTERNAL_SCOPE} with {instead}=…; leave report.scope out"
            )


def checked_scope(scope: Any) -> str:
    """The scope, if there is one of this name.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(scope, str) or scope not in SCOPE_NOTES:
        raise ValueError(
            f"report.scope={scope}: expected one of {', '.join(SCOPE_NOTES)}; choose e.g. {INTERNAL_SCOPE}"
        )
    return scope


def published(results: Sequence[Result]) -> list[Result]:
    """Copies of the results without what only those may see who may see the records.

    Run folders carry a hash of private data and get numbers instead.
    """
    runs = ordered(results)
    numbers = {folder: number for number, folder in enumerate(dict.fromkeys(result.folder for result in runs), 1)}
    return [_published(result, f"{numbers[result.folder]}-{result.network}-{result.defense}") for result in runs]


def public_command(command: str) -> str:
    """A command without places and names of runs."""
    words = shlex.split(command)
    return shlex.join(word for word in words if word.lstrip("+~").partition("=")[0] not in PRIVATE_KEYS)


def _published(result: Result, folder: str) -> Result:
    without_places = {
        group: {key: value for key, value in result.config.get(group, {}).items() if key not in keys}
        for group, keys in PRIVATE_PLACES.items()
    }
    sizes = _sizes(result)
    large = {"all", *(group for group, size in sizes.items() if size >= MIN_GROUP_RECORDS * result.models)}
    rows = [
        row for row in result.rows if row.model == "all" and row.metric not in MEMBER_METRICS and row.group in large
    ]
    private = not result.dataset.get("published")
    if private:
        rows = [row for row in rows if row.group == "all" or row.metric not in COUNT_METRICS]
        sizes = {group: size for group, size in sizes.items() if group == "all"}  # classes and slices are not counted
    return replace(
        result,
        statement=result.statement.leaving_out(NOT_COVERED if private else None),
        run=folder + result.run.removeprefix(Path(result.folder).name),
        folder=folder,
        config={**result.config, **without_places},
        rows=[_rounded(row, result, sizes.get(row.group)) for row in rows],
        roc={attack: _resampled(*curve) for attack, curve in result.roc.items()},
        audit=_floored(result.audit),
        exposed={},
        tuning=None,
    )


def _sizes(result: Result) -> dict[str, int]:
    """Number of pairs of a model and a record in each group, test records not counted.

    An attack that needs several shadows scores fewer of them, and how many the draw decides: the most of any attack.
    """
    sizes: dict[str, int] = {}
    if not result.has_canaries and "roles" in result.dataset:
        sizes["all"] = result.models * result.dataset["roles"]["pool"]
    for row in result.rows:
        if row.attack and row.model == "all" and row.members is not None and row.nonmembers is not None:
            sizes[row.group] = max(sizes.get(row.group, 0), row.members + row.nonmembers)
    return sizes


def _rounded(row: Row, result: Result, size: int | None) -> Row:
    value, low, high = (None if end is None else round(end, PUBLISHED_DIGITS) for end in (row.value, row.low, row.high))
    if row.metric == UNSCORED_SHARE and value is not None:
        value = math.ceil(10 * value) / 10  # how many records have shadows of both kinds depends on the draw
    members, nonmembers = _expected(row, result, size)
    return replace(row, value=value, low=low, high=high, members=members, nonmembers=nonmembers)


def _expected(row: Row, result: Result, size: int | None) -> tuple[int | None, int | None]:
    """Expected number of members, by the share of the draw, of all records."""
    if row.members is None or row.nonmembers is None or size is None:
        return None, None
    share = result.config.get("membership", {}).get("share", 0.5)
    return round(share * size), size - round(share * size)


def _resampled(fpr: Sequence[float], tpr: Sequence[float]) -> tuple[list[float], list[float]]:
    """A ROC at false positive rates that depend on no count."""
    start = next((start for start in ROC_START_FPRS if start >= min(fpr)), 1.0)
    grid = np.geomspace(start, 1, len(fpr))
    return grid.tolist(), [round(value, PUBLISHED_DIGITS) for value in np.interp(grid, fpr, tpr).tolist()]


def _floored(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Bounds as precisely as a reader needs them; rounded down they are still bounds."""
    if not audit:
        return {}
    bounds = {name: _down(bound) for name, bound in audit["bounds"].items()}
    return {**audit, "bounds": bounds}


def _down(bound: float) -> float:
    return bound if math.isinf(bound) else math.floor(100 * bound) / 100
