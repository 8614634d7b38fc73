"""Subjects of an evaluation: whatever is attacked, and a fleet as one; `subjects.one_model` holds the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from palisade.attacks import Attack, ThreatModel, View
from palisade.data.split import ROLES
from palisade.evaluation.result import Result
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.targets.run import Run


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
            guard=run.made_guard.name,
            guard_strength=run.made_guard.strength,
            canary=config["names"].get("canary", "none"),
            seed=config["seed"],
            models=len(run.models()),
            strength=run.strength,
            canaries=run.canaries,
            dataset=data_facts(run),
            config=config,
            statement=run.statement,
            bounded=config["membership"]["how"] == "bernoulli"
            and (run.dataset.split.persons is None or run.statement.unit == "person"),
            **measured,
        )


def defense_name(config: Mapping[str, Any]) -> str:
    """The defense of a configuration with the one it builds on, such as `selena(dp_sgd)`."""
    base = _base_name(config["defense"].get("base"))
    named: str = config["names"]["defense"]
    return f"{named}({base})" if base else named


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
    roles = {role: getattr(split, role) for role in ROLES}
    everyone = np.concatenate(list(roles.values()))
    persons = None if split.record_persons is None else len(np.unique(split.record_persons[everyone]))
    return {
        "records": len(everyone),
        "persons": persons,
        "classes": list(data.classes),
        "roles": {role: len(records) for role, records in roles.items()},
        "canaries": len(split.canaries),
        "published": data.published is not None,
        "checksum": data.published or f"hmac-sha256:{(run.folder / 'private' / 'data').read_text()}",
    }
