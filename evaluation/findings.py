"""What was measured on one run: tidy rows, ROC curves, the claim, and what could not be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targets.statement import Statement

if TYPE_CHECKING:
    from evaluation.runs import Run

COLUMNS = (
    "run", "data", "network", "defense", "guard", "seed", "epsilon", "delta", "strength",
    "model", "attack", "access", "group", "metric", "value", "low", "high", "members", "nonmembers",
)  # fmt: skip
FPRS = (0.01, 0.001)
AUC = "auc"


def tpr_at(fpr: float) -> str:
    """The name of a metric, such as `tpr@1%fpr`."""
    return f"tpr@{100 * fpr:g}%fpr"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number.

    Args:
        metric: `auc`, `tpr@1%fpr`, …, or of utility `test_accuracy`, `train_accuracy`.
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


@dataclass(frozen=True, kw_only=True)
class Findings:
    """One run's measurements.

    Args:
        run: folder name of the run.
        folder: the run's folder, for commands.
        models: size of the fleet.
        strength: the value that a sweep varies.
        config: the run's whole configuration, as plain values.
        statement: the claim.
        rows: the numbers.
        roc: for each attack a pair (FPRs, mean TPRs over the fleet), both rising.
        skipped: for each attack that could not run, the reason.
        bounded: whether ε bounds these attacks. It is about one record more or less: where a whole person's records
            come and go together, or one record's membership moves another's, attacks may exceed what ε allows for.
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
    bounded: bool = True

    @classmethod
    def of(cls, run: Run, **measured: Any) -> Findings:
        """The measurements of a run, with what the run itself says."""
        config = run.config
        return cls(
            run=run.name,
            folder=str(run.folder),
            data=run.dataset.name,
            network=config["names"]["network"],
            defense=config["names"]["defense"],
            guard="none",
            seed=config["seed"],
            models=len(run.models()),
            strength=run.strength,
            config=config,
            statement=run.statement,
            bounded=config["membership"]["how"] == "bernoulli"
            and (run.dataset.split.persons is None or run.statement.unit == "person"),
            **measured,
        )

    @classmethod
    def from_json(cls, run: Run, kept: Mapping[str, Any]) -> Findings:
        """The findings that `to_json` kept in the run's folder."""
        rows = [Row(**row) for row in kept["rows"]]
        roc = {attack: (fprs, tprs) for attack, (fprs, tprs) in kept["roc"].items()}
        return cls.of(run, rows=rows, roc=roc, skipped=kept["skipped"])

    def to_json(self) -> dict[str, Any]:
        """What was measured, without what the run itself says."""
        return {"rows": [vars(row) for row in self.rows], "roc": dict(self.roc), "skipped": dict(self.skipped)}

    def get(self, metric: str, *, attack: str = "", group: str = "all", model: int | str = "all") -> Row:
        """The one row with this metric.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if (row.metric, row.attack, row.group, row.model) == (metric, attack, group, model):
                return row
        raise KeyError(f"{self.run} has no {metric} of attack={attack} group={group} model={model}")

    @property
    def attacks(self) -> list[str]:
        return list(self.roc)

    @property
    def strongest(self) -> str:
        """The attack with the highest TPR at 1 % FPR; the highest AUC decides where that cannot be resolved.

        Raises:
            ValueError: if all attacks were skipped.
        """

        def power(attack: str) -> tuple[float, float]:
            tpr = self.get(tpr_at(FPRS[0]), attack=attack).value
            return (-1.0 if tpr is None else tpr, self.get(AUC, attack=attack).value or 0.0)

        return max(self.attacks, key=power)

    @property
    def epsilon(self) -> float | None:
        """ε of the statement: inf if only clipped, None without a guarantee."""
        return self.statement.epsilon

    def tidy(self) -> list[dict[str, Any]]:
        """The rows with what they belong to, by `COLUMNS`."""
        common = {
            "run": self.run, "data": self.data, "network": self.network, "defense": self.defense, "guard": self.guard,
            "seed": self.seed, "epsilon": self.epsilon, "delta": self.statement.delta, "strength": self.strength,
        }  # fmt: skip
        tidied = []
        for row in self.rows:
            values = {**common, **vars(row)}
            tidied.append({name: values[name] for name in COLUMNS})
        return tidied
