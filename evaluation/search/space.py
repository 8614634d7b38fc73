"""Space of a search: defenses, and of each some settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from palisade.data.settings import check_switches

if TYPE_CHECKING:
    from optuna.trial import Trial

DIGITS = 3
"""Significant digits of a value that is tried: what it is called in tables is what it was."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values of a setting from `low` to `high`, whole numbers if both are.

    Args:
        name: of the setting, for errors.
        low: the least.
        high: the most.
        log: whether orders of magnitude are alike, as for weights and ε; `low` must then be above 0.

    Raises:
        ValueError: if there is nothing in between.
    """

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        check_switches({f"{self.name}.log": self.log}, [f"{self.name}.log"])
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (self.low, self.high))
        if not numbers or not self.low < self.high < float("inf") or (self.log and self.low <= 0):
            raise ValueError(
                f"{self.name}={{low: {self.low}, high: {self.high}}} is no range; give finite numbers, low below high"
                " and, with log, above 0"
            )

    def suggest(self, trial: Trial, name: str) -> float:
        """A value of this range by the search's sampler, rounded to few digits unless it is whole."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{DIGITS}g}")


@dataclass(frozen=True)
class Space:
    """Defenses by name, each with the settings that vary: a range, or a list of values.

    Raises:
        ValueError: if there is no defense, or one in which nothing varies.
    """

    defenses: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.defenses:
            raise ValueError("search.space is empty; name defenses, such as search.space.l2.weight_decay=[0.001,0.01]")
        for defense, settings in self.settings.items():
            if not settings:
                raise ValueError(
                    f"search.space.{defense} varies nothing; give a setting a range, or remove it with"
                    f" ~search.space.{defense}"
                )

    @cached_property
    def settings(self) -> dict[str, dict[str, Range | Sequence[Any]]]:
        """Of each defense its settings by dotted key."""
        return {defense: dict(_leaves(node, f"search.space.{defense}.", "")) for defense, node in self.defenses.items()}

    def suggest(self, trial: Trial) -> list[str]:
        """Settings of a trial, as overrides for `train.py`."""
        defense = trial.suggest_categorical("defense", sorted(self.settings))
        overrides = [f"defense={defense}"]
        for key, values in self.settings[defense].items():
            name = f"{defense}.{key}"
            if isinstance(values, Range):
                chosen = values.suggest(trial, name)
            else:
                chosen = trial.suggest_categorical(name, values)
            overrides.append(f"defense.{key}={chosen}")
        return overrides

    def corners(self) -> Iterator[list[str]]:
        """Of each defense one point, as settings for `train.py`: whether these exist is seen before any is trained."""
        for defense, settings in self.settings.items():
            firsts = {key: values.low if isinstance(values, Range) else values[0] for key, values in settings.items()}
            yield [f"defense={defense}", *(f"defense.{key}={value}" for key, value in firsts.items())]


def _leaves(node: Any, place: str, key: str) -> Iterator[tuple[str, Range | Sequence[Any]]]:
    """The settings of a node with their values."""
    if not isinstance(node, Mapping):
        if not isinstance(node, Sequence) or isinstance(node, str) or not node:
            raise ValueError(f"{place}{key}={node} lists nothing to try; give a range, or a list such as [0.1,1]")
        yield key, node
    elif "low" in node or "high" in node:
        if not {"low", "high"} <= set(node) <= {"low", "high", "log"}:
            raise ValueError(f"{place}{key} has {', '.join(node)}; a range has low, high and, if wanted, log")
        yield key, Range(name=f"{place}{key}", **node)
    else:
        for name, inner in node.items():
            yield from _leaves(inner, place, f"{key}.{name}" if key else name)
