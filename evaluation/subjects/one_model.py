"""One existing model as the subject of an evaluation: saved answers, a model file, a release or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from palisade.attacks import Attack, ThreatModel, View
from palisade.attacks.parts.thresholds import Threshold
from palisade.evaluation.result import Result, Sides
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.subjects.answers import AnsweredRecords, shared_rows, view_of
from palisade.evaluation.subjects.model_file import AuditedModel
from palisade.evaluation.subjects.subject import Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSubject(Subject):
    """One model with records that it was trained on and records that it was not; membership was given, not drawn.

    Args:
        members: records that the model was trained on.
        nonmembers: records that it was not.
        population: further non-members, which attackers hold.
        model: that they may ask about inputs of their choice; None where answers were saved.
        shadow: members and non-members of one shadow model, with its answers about them; None without one.
    """

    members: AnsweredRecords
    nonmembers: AnsweredRecords
    population: AnsweredRecords | None = None
    model: AuditedModel | None = None
    shadow: tuple[AnsweredRecords, AnsweredRecords] | None = None

    fewest_scored = 2
    too_few_scored = "gives too few records a score; give more records"

    @property
    def name(self) -> str:
        """Name of the model, or that its answers were saved."""
        return "saved answers" if self.model is None else self.model.name

    @cached_property
    def sides(self) -> Sides:
        """Facts about the records on both sides."""
        both = (self.members, self.nonmembers)
        return Sides(
            members=len(self.members),
            nonmembers=len(self.nonmembers),
            features=self.members.features is not None,
            shared=shared_rows(*both),
            shadow_records=sum(map(len, self.shadow or ())),
            over_persons=any(side.person_count < len(side) for side in both),
        )

    def view(self, grant: Grant, queries: Sequence[str] = (), threats: Sequence[ThreatModel] = ()) -> View:
        """View of the model for attackers, by the one query that was put for each record."""
        return view_of(self.members, self.nonmembers, self.population, grant, self.model)

    def shadow_view(self, grant: Grant) -> View | None:
        """View of the shadow model about records of its own; None without one."""
        return None if self.shadow is None else view_of(*self.shadow, None, grant)

    def result(self, **measured: Any) -> Result:
        """Measured numbers, with what is known of the records."""
        return Result(run=self.name, sides=self.sides, **measured)

    def suited(self, attack: Attack) -> Attack:
        """The attack with one threshold for all classes: only shadow models can teach one for each."""
        return replace(attack, per_class=False) if isinstance(attack, Threshold) and attack.per_class else attack

    def lacking(self, attack: Attack, view: View) -> str | None:
        """Needs of an attack beyond one model's answers, None if it can run."""
        return lacking(attack, view)


def lacking(attack: Attack, view: View) -> str | None:
    """Needs of an attack beyond one model's answers, None if it can run."""
    threat = attack.threat
    if (reason := attack.missing(view)) is None:
        return None
    if threat.weights:
        return "needs gradients or checkpoints; train the model with train.py, then grant threat=white_box"
    if threat.knows_defense:
        return "needs shadow models, trained by the same recipe on other records; train a fleet of them with train.py"
    if threat.population and view.population is None:
        return "needs non-members of the attacker's own; give further ones as population=<file>"
    return reason
