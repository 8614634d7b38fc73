"""Result on one run: tidy rows, ROC curves, the claim, and what could not be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from palisade.evaluation.report.data_facts import data_facts
from palisade.evaluation.titles import defense_name
from palisade.evaluation.utility import ACCURACY, Utility
from palisade.targets.statement import Statement

if TYPE_CHECKING:
    from palisade.targets.run import Run

COLUMNS = (
    "run", "data", "network", "defense", "guard", "canary", "seed", "epsilon", "delta", "strength",
    "guard_strength", "released", "model", "attack", "access", "group", "metric", "value", "low", "high", "members",
    "nonmembers", "queries_declared", "queries_made",
)  # fmt: skip
Name = TypeVar("Name")
MEASURED = ("roc", "skipped", "needs", "threat", "released", "audit", "exposed")
"""Fields of results that are kept besides their rows."""
FPRS = (0.01, 0.001)
AUC = "auc"
TARGETS = "targets"
"""The name of a metric: how many models an attack on a sample of them had as targets; missing where it had all."""
LEAST_TARGETS = 4
"""Targets below which a sample of the models says little on the others."""


def tpr_at(fpr: float) -> str:
    """The name of a metric, such as `tpr@1%fpr`."""
    return f"tpr@{100 * fpr:g}%fpr"


def tnr_at(fnr: float) -> str:
    """The name of a metric, such as `tnr@1%fnr`."""
    return f"tnr@{100 * fnr:g}%fnr"


def tied_at(fpr: float) -> str:
    """The name of a metric, such as `tied@1%fpr`."""
    return f"tied@{100 * fpr:g}%fpr"


def chance_at(fpr: float) -> str:
    """The name of the TPR that guessing reaches on average, such as `chance@1%fpr`."""
    return f"chance@{100 * fpr:g}%fpr"


def null_at(fpr: float) -> str:
    """The name of the largest TPR that luck explains, such as `null@1%fpr`."""
    return f"null@{100 * fpr:g}%fpr"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number.

    Args:
        metric: `auc`, `tpr@1%fpr`, …, or of utility `test_accuracy`, `test_log_loss`, …
        value: None where it cannot be resolved (an FPR below one false positive).
        low: lower end of the 95 % interval, None where there is none.
        high: its upper end.
        attack: empty for utility.
        access: label_only, black_box or white_box; empty for utility.
        model: an index, or `all` for the mean over the fleet.
        group: `all`, or a part of the records such as `class=3`.
        members: members scored, summed over models for `all`.
        nonmembers: the same of non-members.
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    attack: str = ""
    access: str = ""
    model: int | str = "all"
    group: str = "all"
    members: int | None = None
    nonmembers: int | None = None


def most_powerful(powers: Mapping[Name, tuple[float | None, float | None]]) -> Name:
    """The name with the highest TPR at a low FPR; by AUC where that is not resolved for all of them.

    Raises:
        ValueError: if there is none.
    """
    resolved = all(tpr is not None for tpr, _ in powers.values())
    return max(powers, key=lambda name: tuple(power or 0.0 for power in powers[name][not resolved :]))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run's measurements.

    Args:
        run: folder name of the run, with its guard.
        folder: the run's folder, for commands.
        defense: with the one it builds on, such as `selena(dp_sgd)`.
        guard: what stands before the models, or `none`.
        models: size of the fleet.
        strength: the value that a sweep over the defense varies.
        config: the run's whole configuration, as plain values.
        statement: the claim.
        rows: the numbers.
        roc: for each attack a pair (FPRs, mean TPRs over the fleet), both rising.
        skipped: for each attack that could not run, the reason.
        needs: for each attack its threat model in words (`text`), the queries a record that it declares (`declared`,
            None: as many as there are) and those it made (`measured`).
        canary: the kind of the canaries that alone were scored, or `none`.
        threat: what the attackers were granted: label_only, black_box or white_box.
        released: the level of the answers that they saw, such as `logits` or `top-3`.
        audit: lower bounds on ε of model 0 by one attack that was fixed beforehand: its name (`attack`), `delta`, the
            counts `canaries`, `guesses`, `correct`, the number of `ways` of auditing that were tried, and `bounds`
            with their `ceilings` by method; empty if none.
        exposed: how exposed single records are.
        bounded: whether ε bounds these attacks. It is about one record more or less: where a whole person's records
            come and go together, or one record's membership moves another's, attacks may exceed what ε allows for.
        guard_strength: the value that a sweep over the guard varies.
        canaries: the kinds of canaries that its defense protects least.
        utility: the measure that these results are read by; the rows hold all of them.
        dataset: what `data_facts` tells of the data; empty where nothing but outputs is known.
    """

    run: str
    folder: str
    data: str
    network: str
    defense: str
    guard: str
    seed: int
    models: int
    strength: float | None
    config: Mapping[str, Any]
    statement: Statement
    rows: Sequence[Row]
    roc: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    skipped: Mapping[str, str]
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    canary: str = "none"
    threat: str = "black_box"
    released: str = "logits"
    audit: Mapping[str, Any] = field(default_factory=dict)
    exposed: Mapping[str, Any] = field(default_factory=dict)
    bounded: bool = True
    guard_strength: float | None = None
    canaries: Sequence[str] = ()
    utility: Utility = ACCURACY
    dataset: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, **measured: Any) -> Result:
        """The measurements of a run, with what the run itself says."""
        config = run.config
        return cls(
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

    @classmethod
    def from_json(cls, run: Run, kept: Mapping[str, Any], utility: Utility = ACCURACY) -> Result:
        """The results that `to_json` kept in the run's folder."""
        rows = [Row(**row) for row in kept["rows"]]
        roc = {attack: (fprs, tprs) for attack, (fprs, tprs) in kept["roc"].items()}
        return cls.of(run, **{**kept, "rows": rows, "roc": roc}, utility=utility)

    def to_json(self) -> dict[str, Any]:
        """Plain values of all that was measured, without what the run itself says."""
        measured = {name: getattr(self, name) for name in MEASURED}
        return {**measured, "rows": [vars(row) for row in self.rows]}

    def get(self, metric: str, *, attack: str = "", group: str = "all", model: int | str = "all") -> Row:
        """The one row with this metric.

        Raises:
            KeyError: if there is none.
        """
        if (row := self.find(metric, attack=attack, group=group, model=model)) is None:
            raise KeyError(f"{self.run} has no {metric} of attack={attack} group={group} model={model}")
        return row

    def find(self, metric: str, *, attack: str = "", group: str = "all", model: int | str = "all") -> Row | None:
        """The one row with this metric, None if there is none."""
        return self._named.get((metric, attack, group, model))

    @cached_property
    def _named(self) -> dict[tuple[str, str, str, int | str], Row]:
        return {(row.metric, row.attack, row.group, row.model): row for row in self.rows}

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks that were not skipped."""
        return list(self.roc)

    @cached_property
    def strongest(self) -> str:
        """The attack with the highest TPR at 1 % FPR; the highest AUC decides where not all can resolve that.

        An attack on a sample of the records, or on fewer than 4 of more models, is left out, unless all are: the sample
        may be an easy one.

        Raises:
            ValueError: if all attacks were skipped.
        """
        most = [attack for attack in self.attacks if self._unscored(attack) <= 0.5 and not self.on_few(attack)]
        candidates = most or self.attacks
        powers = {
            attack: (self.get(tpr_at(FPRS[0]), attack=attack).value, self.get(AUC, attack=attack).value)
            for attack in candidates
        }
        return most_powerful(powers)

    def on_few(self, attack: str) -> bool:
        """Restriction of an attack to so few of the models that no interval over them, and no verdict, rests on it."""
        row = self.find(TARGETS, attack=attack)
        return row is not None and (row.value or 0.0) < LEAST_TARGETS

    def _unscored(self, attack: str) -> float:
        row = self.find("unscored", attack=attack)
        return (row and row.value) or 0.0

    @property
    def epsilon(self) -> float | None:
        """ε of the statement: inf if only clipped, None without a guarantee."""
        return self.statement.epsilon

    def tidy(self) -> list[dict[str, Any]]:
        """The rows with what they belong to, by `COLUMNS`."""
        common = {
            "run": self.run, "data": self.data, "network": self.network, "defense": self.defense, "guard": self.guard,
            "canary": self.canary, "seed": self.seed, "epsilon": self.epsilon, "delta": self.statement.delta,
            "strength": self.strength, "guard_strength": self.guard_strength, "released": self.released,
        }  # fmt: skip
        tidied = []
        for row in self.rows:
            queries = self.needs.get(row.attack, {})
            asked = {"queries_declared": queries.get("declared"), "queries_made": queries.get("measured")}
            values = {**common, **vars(row), **asked}
            tidied.append({name: values[name] for name in COLUMNS})
        return tidied
