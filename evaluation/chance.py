"""Words on an attack that finds few members at few false accusations: is it guessing, or not?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from palisade.evaluation.guessing import Searchable, excludes_guessing
from palisade.evaluation.result import AUC, Row
from palisade.evaluation.table import NOTHING


@runtime_checkable
class Measured(Searchable, Protocol):
    """Results of attacks, on a fleet or on one model."""

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks that have scores."""

    def get(self, metric: str, *, attack: str = ...) -> Row:
        """The result of this metric, which must have been measured."""


def against_chance(result: Measured, attack: str) -> str:
    """A sentence for an attack whose interval at few false accusations does not exclude guessing.

    Few records decide there; over all of them its AUC, or that of another attack, may well exclude guessing.

    Args:
        result: what attacks found.
        attack: that finds most at few false accusations.
    """
    own = result.get(AUC, attack=attack)
    if excludes_guessing(result, own):
        return f" Over all records it does better than guessing: its AUC is {auc_text(own)}; guessing has 0.5."
    highest = max((result.get(AUC, attack=name) for name in result.attacks), key=lambda row: row.value or 0.0)
    if excludes_guessing(result, highest):
        return f" Of the {len(result.attacks)} attacks, {highest.attack} has the highest AUC: {auc_text(highest)}."
    return " That is no better than guessing within its interval, which proves nothing about stronger attacks."


def auc_text(row: Row) -> str:
    """An AUC with its interval."""
    if row.value is None:
        return NOTHING
    return f"{row.value:.3f}" + ("" if row.low is None or row.high is None else f" [{row.low:.3f}–{row.high:.3f}]")
