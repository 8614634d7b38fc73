"""Runs that may be drawn on one curve, and the points that are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from palisade.evaluation.result import FPRS, Result, Row, tpr_at
from palisade.evaluation.statistics.epsilon import tpr_ceiling
from palisade.evaluation.titles import canary_text, has_canaries, is_undefended, line_name, varying
from palisade.targets.config import flat

FPR = FPRS[0]
MAY_DIFFER = ("defense", "names.defense", "guard", "names.guard", "canary", "names.canary", "fleet", "guesses", "seed")
"""Configuration keys that may differ on one curve, with all below them, such as a defense's own trainer settings."""
OUTSIDE = ("data.root", "data.slices")
"""Keys of a data set's place, and of the columns that results are read by, which say nothing about what was learned."""


@runtime_checkable
class Configured(Protocol):
    """A run or what was found on it."""

    @property
    def folder(self) -> object:
        """The place of the run, for errors."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Plain settings that the run was trained with."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run on the curve.

    Args:
        label: what tells it from the other points of its line, such as `ε=8`, or `0.001 + 3` with that of the guard.
        utility: the measure that results are read by, with its interval.
        leakage: TPR at 1 % FPR of the run's strongest attack with its interval.
    """

    label: str
    utility: Row
    leakage: Row
    result: Result


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of the curve: a defense and a guard through their strengths, in rising order.

    Args:
        name: of the line.
        defense: the same for the fleet that is attacked on all records and those attacked on canaries alone.
        runs: at least one.
    """

    name: str
    defense: str
    runs: Sequence[Result]

    @property
    def undefended(self) -> bool:
        """Absence of defense and guard in all runs of the line."""
        return is_undefended(self.runs[0])

    @property
    def canary(self) -> str:
        """Kind of canaries that alone are attacked; `none` for all records."""
        return self.runs[0].canary

    @cached_property
    def points(self) -> list[Point]:
        """Points that can be drawn: no run whose attacks were all skipped or cannot be resolved at 1 % FPR, none whose
        answers do not allow the utility that was chosen."""
        labelled = zip(self.runs, varying(self.runs), strict=True)
        return [point for result, label in labelled if (point := _point(result, label)) is not None]


def check_comparable(runs: Sequence[Configured]) -> None:
    """Refuses runs whose difference would be mistaken for that of their defenses.

    Raises:
        ValueError: if the runs differ in more than defense, guard, canaries, fleet and seed; names the keys.
    """
    first = must_agree(runs[0].config)
    for run in runs[1:]:
        other = must_agree(run.config)
        keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if keys:
            listed = ", ".join(f"{key}={first.get(key)} and {other.get(key)}" for key in keys)
            raise ValueError(
                f"{listed} differ between {runs[0].folder} and {run.folder}; runs on one curve may differ only in"
                " defense, guard, canary, fleet and seed, choose some with runs=<glob>"
            )


def must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that must agree on one curve with their values, such as `trainer.optimizer.lr`."""
    free = tuple(f"{key}." for key in (*MAY_DIFFER, *OUTSIDE))
    return {key: value for key, value in flat(config) if not f"{key}.".startswith(free)}


def ordered(results: Sequence[Result]) -> list[Result]:
    """Undefended first, then by defense, guard and their strengths, canaries below: as in every table and legend."""

    def place(result: Result) -> tuple[bool, str, str, float, float, int, bool, str]:
        strength, of_guard = (-math.inf if s is None else s for s in (result.strength, result.guard_strength))
        fleet = (not is_undefended(result), result.defense, result.guard, strength, of_guard, result.seed)
        return (*fleet, has_canaries(result), result.canary)

    return sorted(results, key=place)


def series(results: Sequence[Result]) -> list[Series]:
    """The lines of the trade-off curve in the order of `ordered`; each seed and kind of canaries has its own.

    Raises:
        ValueError: if the runs are not comparable.
    """
    check_comparable(results)
    several = len({result.seed for result in results}) > 1
    lines: dict[str, dict[str, list[Result]]] = {}
    for result in ordered(results):
        defense = line_name(result) + (f" (seed {result.seed})" if several else "")
        lines.setdefault(defense, {}).setdefault(canary_text(result), []).append(result)
    return [
        Series(name=defense + canaries, defense=defense, runs=runs)
        for defense, fleets in lines.items()
        for canaries, runs in sorted(fleets.items())
    ]


def _point(result: Result, label: str) -> Point | None:
    leakage, utility = strongest_row(result, tpr_at(FPR)), result.get(result.utility.metric)
    if leakage is None or leakage.value is None or utility.value is None:
        return None
    return Point(label=label, utility=utility, leakage=leakage, result=result)


def strongest_row(result: Result, metric: str) -> Row | None:
    """The metric of the run's strongest attack; None if every attack was skipped."""
    return result.get(metric, attack=result.strongest) if result.attacks else None


def ceiling(result: Result, fpr: np.ndarray) -> np.ndarray | None:
    """The largest TPR that the run's claim lets any attack reach at each FPR; None where it bounds none."""
    claim = result.statement
    if not (claim.guarantee and result.bounded):
        return None
    curve = claim.privacy_curve or ((claim.epsilon, claim.delta),)
    return tpr_ceiling(fpr, np.array(curve, dtype=np.float64))
