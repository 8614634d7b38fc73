"""Subjects of an evaluation: whatever is attacked, a fleet of a run or one existing model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64

from palisade.attacks import Attack, ThreatModel, View
from palisade.attacks.parts.thresholds import Threshold
from palisade.data.split import SPLIT_ROLES
from palisade.evaluation.result import Result, Sides
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.subjects.answers import AnsweredRecords, shared_rows, view_of
from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.shadow_fleet import ShadowFleet
from palisade.targets.run import Run
from palisade.targets.trial_outcomes import TuningOutcome


class BudgetSpentError(ValueError):
    """More queries are needed than `budget` allows; those beyond it were not made."""


class Subject(ABC):
    """Target of an evaluation: one or several models with records, and the facts known before any attack runs."""

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


@dataclass(frozen=True)
class FleetSubject(Subject):
    """The models of a run, each a target once and a shadow for the others; membership was drawn.

    Args:
        run: that trained them, with the guard that stands before them.
    """

    run: Run

    fewest_scored = 1
    too_few_scored = "gives some model no score for both a member and a non-member; train more models"

    @property
    def name(self) -> str:
        """Folder name of the run, with its guard."""
        return self.run.name

    def view(self, grant: Grant, queries: Sequence[str], threats: Sequence[ThreatModel]) -> View:
        """View of the fleet for attackers."""
        return view(self.run, grant, queries, threats)

    def result(self, **measured: Any) -> Result:
        """Measured numbers, with what the run itself says."""
        run, config = self.run, self.run.config
        return Result(
            run=run.name,
            folder=str(run.folder),
            data=run.dataset.name,
            network=config["names"]["network"],
            defense=defense_name(config),
            guard=run.registered_guard.name,
            guard_strength=run.registered_guard.strength,
            canary=config["names"].get("canary", "none"),
            seed=config["seed"],
            models=len(run.models()),
            strength=run.strength,
            canaries=run.canaries,
            dataset=data_facts(run),
            config=config,
            statement=run.statement,
            tuning=TuningOutcome.read(run.folder),
            bounded=config["membership"]["how"] == "bernoulli"
            and (run.dataset.split.persons is None or run.statement.unit == "person"),
            **measured,
        )


def defense_name(config: Mapping[str, Any]) -> str:
    """The defense of a configuration with the one it builds on, such as `selena(dp_sgd)`.

    Where products of low rank alone are trained, that is named too: `lora 8` by itself, else `dp_sgd(lora 8)`.
    """
    parts = [config["names"]["defense"], _base_name(config["defense"].get("base"))]
    if (rank := (config["network"].get("lora") or {}).get("rank")) is not None:
        parts = [*(part for part in parts if part != "none"), f"lora {rank}"]
    outer, *inner = filter(None, parts)
    return f"{outer}({', '.join(inner)})" if inner else str(outer)


def _base_name(node: Mapping[str, Any] | None) -> str:
    """The file of a base's class, such as `dp_sgd` of `defenses.dp_sgd.DPSGDDefense`; empty if it defends nothing."""
    if node is None or (own := str(node["_target_"]).split(".")[-2]) == "none":
        return ""
    inner = _base_name(node.get("base"))
    return f"{own}({inner})" if inner else own


def data_facts(run: Run) -> dict[str, Any]:
    """Plain numbers that depend on nobody's membership.

    Private data are known by a hash that is keyed with the run's secret, so that nobody can test a guess about them;
    public data by the checksum that was published for them.
    """
    data, split = run.dataset, run.dataset.split
    roles = {role: getattr(split, role) for role in SPLIT_ROLES}
    everyone = np.concatenate(list(roles.values()))

    def persons_of(records: Int64[np.ndarray, " records"]) -> int | None:
        return None if split.record_persons is None else len(np.unique(split.record_persons[records]))

    return {
        "records": len(everyone),
        "persons": persons_of(everyone),
        "pool_persons": persons_of(split.pool),
        "classes": [] if data.positional else list(data.classes),
        **({"vocabulary": len(data.classes)} if data.positional else {}),
        "roles": {role: len(records) for role, records in roles.items()},
        "canaries": len(split.canaries),
        "published": data.published is not None,
        "checksum": data.published or f"hmac-sha256:{(run.folder / 'private' / 'data').read_text()}",
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSubject(Subject):
    """One model with records that it was trained on and records that it was not; membership was given, not drawn.

    Args:
        members: records that the model was trained on.
        nonmembers: records that it was not.
        population: further non-members, which attackers hold.
        model: that they may ask about inputs of their choice; None where answers were saved.
        shadow: members and non-members of one shadow model, with its answers about them; None without one.
        shadows: models of a run that were trained on parts of the same records; None without any.
    """

    members: AnsweredRecords
    nonmembers: AnsweredRecords
    population: AnsweredRecords | None = None
    model: AuditedModel | None = None
    shadow: tuple[AnsweredRecords, AnsweredRecords] | None = None
    shadows: ShadowFleet | None = None

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
            shadow_models=0 if self.shadows is None else self.shadows.models,
            over_persons=any(side.person_count < len(side) for side in both),
        )

    def view(self, grant: Grant, queries: Sequence[str] = (), threats: Sequence[ThreatModel] = ()) -> View:
        """View of the model for attackers, by the one query that was put for each record."""
        return view_of(self.members, self.nonmembers, self.population, grant, self.model)

    def beside_shadows(self, seen: View, grant: Grant) -> View:
        """A view of the model with its shadows, if there are any; else the view as it is."""
        return seen if self.shadows is None else self.shadows.beside(seen, grant)

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
        if view.models > 1:
            return reason
        return "needs shadow models, trained by the same recipe on other records; train a fleet of them with train.py"
    if threat.population and view.population is None:
        return "needs non-members of the attacker's own; give further ones as population=<file>"
    return reason
