"""Subject of an evaluation: whatever is attacked, a fleet behind its guard or one model that exists already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from palisade.attacks import Attack, ThreatModel, View
from palisade.evaluation.result import Result
from palisade.evaluation.signals.grant import Grant


class Subject(ABC):
    """Whatever is attacked, with all that is known of it before an attack runs."""

    fewest_scored: ClassVar[int]
    """Members, and non-members, that an attack must score in each model that it attacks."""
    too_few_scored: ClassVar[str]
    """Reason why an attack that scores fewer is skipped."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the subject in a few words."""

    @abstractmethod
    def view(self, grant: Grant, queries: Sequence[str], threats: Sequence[ThreatModel]) -> View:
        """View of the subject for attackers.

        Args:
            grant: what they are granted.
            queries: how each record is put to the models.
            threats: what their attacks need; what none needs may be left out.
        """

    @abstractmethod
    def result(self, **measured: Any) -> Result:
        """Measured numbers, with what is known of the subject itself."""

    def suited(self, attack: Attack) -> Attack:
        """The attack in the form that this subject allows for."""
        return attack

    def lacking(self, attack: Attack, view: View) -> str | None:
        """Needs of an attack that a view of this subject does not meet, with the remedy; None if it can run."""
        return attack.missing(view)
