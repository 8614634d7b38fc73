"""Runs that may be drawn on one curve, and the points that are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from palisade.evaluation.findings import FPRS, Findings, Row, tpr_at
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
    findings: Findings


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
    runs: Sequence[Findings]

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
        return [point for found, label in labelled if (point := _point(found, label)) is not None]


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


def ordered(findings: Sequence[Findings]) -> list[Findings]:
    """Undefended first, then by defense, guard and their strengths, canaries below: as in every table and legend."""

    def place(found: Findings) -> tuple[bool, str, str, float, float, int, bool, str]:
        strength, of_guard = (-math.inf if s is None else s for s in (found.strength, found.guard_strength))
        fleet = (not is_undefended(found), found.defense, found.guard, strength, of_guard, found.seed)
        return (*fleet, has_canaries(found), found.canary)

    return sorted(findings, key=place)


def series(findings: Sequence[Findings]) -> list[Series]:
    """The lines of the trade-off curve in the order of `ordered`; each seed and kind of canaries has its own.

    Raises:
        ValueError: if the runs are not comparable.
    """
    check_comparable(findings)
    several = len({found.seed for found in findings}) > 1
    lines: dict[str, dict[str, list[Findings]]] = {}
    for found in ordered(findings):
        defense = line_name(found) + (f" (seed {found.seed})" if several else "")
        lines.setdefault(defense, {}).setdefault(canary_text(found), []).append(found)
    return [
        Series(name=defense + canaries, defense=defense, runs=runs)
        for defense, fleets in lines.items()
        for canaries, runs in sorted(fleets.items())
    ]


def _point(found: Findings, label: str) -> Point | None:
    leakage, utility = strongest_row(found, tpr_at(FPR)), found.get(found.utility.metric)
    if leakage is None or leakage.value is None or utility.value is None:
        return None
    return Point(label=label, utility=utility, leakage=leakage, findings=found)


def strongest_row(found: Findings, metric: str) -> Row | None:
    """The metric of the run's strongest attack; None if every attack was skipped."""
    return found.get(metric, attack=found.strongest) if found.attacks else None


def ceiling(found: Findings, fpr: np.ndarray) -> np.ndarray | None:
    """The largest TPR that the run's claim lets any attack reach at each FPR; None where it bounds none."""
    claim = found.statement
    if not (claim.guarantee and found.bounded):
        return None
    curve = claim.privacy_curve or ((claim.epsilon, claim.delta),)
    return tpr_ceiling(fpr, np.array(curve, dtype=np.float64))
