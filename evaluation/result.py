"""Result on one subject: tidy rows, ROC curves, the claim, and what could not be measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from palisade.evaluation.utility import TEST_ACCURACY, Utility
from palisade.targets.statement import Statement
from palisade.targets.trial_outcomes import TuningOutcome

RESULT_COLUMNS = (
    "run", "data", "network", "defense", "guard", "canary", "seed", "epsilon", "delta", "strength",
    "guard_strength", "released", "model", "attack", "access", "group", "metric", "value", "low", "high", "members",
    "nonmembers", "queries_declared", "queries_made",
)  # fmt: skip
Name = TypeVar("Name")
MEASURED_FIELDS = ("roc", "skipped", "needs", "threat", "released", "audit", "exposed")
"""Fields of results that are stored besides their rows."""
REPORTED_FPRS = (0.01, 0.001)
FPR = REPORTED_FPRS[0]
"""False positive rate at which runs are compared."""
AUC = "auc"
GUESSING_AUC = 0.5
"""The AUC of guessing."""
UNSCORED_SHARE = "unscored"
"""The name of a metric: the share of the records that an attack gave no score."""
MOSTLY_UNSCORED = 0.5
"""An attack that leaves out more than this share is one on a sample, which may be an easy one."""
MAX_TIES_PER_FPR = 5
"""Share of non-members that may stand at the threshold itself, in units of the FPR."""
SHARE_ROUNDING = 1e-12
"""Rounding error of a share of a count."""
BLIND_BASELINE = "blind_baseline"
"""Name in place of an attack's; the baseline never asks the model."""
BY_CHANCE = "p_value"
"""The name of a metric: the probability of so large an AUC of the blind baseline where sides are random."""
DIFFERENCE_ALPHA = 0.05
"""Up to this probability members and non-members differ by themselves."""
MODEL_ACCURACY, MEMBER_GROUP, NONMEMBER_GROUP = "accuracy", "members", "nonmembers"
"""The name of a metric, of one model: its accuracy, in the group of records that it was trained on, or others."""
TRAIN_ACCURACY = "train_accuracy"
"""The name of a metric, of a fleet: each model's accuracy on its own members."""
ACCURACY_GAP = "accuracy_gap"
"""The name of a metric: accuracy on members less that on others."""
LARGEST_CLASS = "largest_class"
"""The name of a metric: the share of the largest class, which is the accuracy of always naming it."""
TARGET_COUNT = "targets"
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


def fpr_of(row: Row) -> float:
    """The FPR of a TPR."""
    return next(fpr for fpr in REPORTED_FPRS if tpr_at(fpr) == row.metric)


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
class Sides:
    """Records of a model that exists already, as files give them: those it was trained on, and others.

    Args:
        members: number of records that it was trained on.
        nonmembers: number of the others.
        features: whether the records themselves are known, or only answers about them.
        shared: records that are on both sides; None where that is unknown.
        shadow_records: about which a shadow model answered; 0 without one.
        shadow_models: models of a run that were trained on parts of the records; 0 without any.
        over_persons: whether intervals draw persons whole, since somebody has several records.
    """

    members: int
    nonmembers: int
    features: bool
    shared: int | None = None
    shadow_records: int = 0
    shadow_models: int = 0
    over_persons: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything measured on one subject: on a run, or on one model that exists already.

    A run's intervals are about its training configuration, those of one model about that model. Membership in a run's
    models was drawn, that in one model is given with its `sides`; it has neither a configuration nor a test split.

    Args:
        run: folder name of the run, with its guard; of one model its name.
        rows: the numbers.
        roc: for each attack a pair (FPRs, TPRs), both rising: of a fleet means over its models.
        skipped: for each attack that could not run, the reason.
        released: the level of the answers that the attackers saw, such as `logits` or `top-3`.
        folder: the run's folder, for commands.
        defense: with the one it builds on, such as `selena(dp_sgd)`; empty where it is not known.
        guard: what stands before the models, or `none`.
        models: size of the fleet.
        strength: the value that a sweep over the defense varies.
        config: the run's whole configuration, as plain values.
        statement: the claim.
        needs: for each attack its threat model in words (`text`), its way in a layman's words (`idea`), the queries a
            record that it declares (`declared`, None: as many as there are) and those it made (`measured`).
        canary: the kind of the canaries that alone were scored, or `none`.
        threat: what the attackers were granted: label_only, black_box or white_box.
        audit: lower bounds on ε of model 0 by one attack that was fixed beforehand: its name (`attack`), `delta`, the
            counts `canaries`, `guesses`, `correct`, the number of `ways` of auditing that were tried, and `bounds`
            with their `ceilings` by method; empty if none.
        exposed: how exposed single records are.
        bounded: whether ε bounds these attacks. It is about one record more or less: where a whole person's records
            come and go together, or one record's membership moves another's, attacks may exceed what ε allows for.
        guard_strength: the value that a sweep over the guard varies.
        canaries: the kinds of canaries that its defense protects least.
        utility: the measure that these results are read by; the rows hold all of them.
        dataset: facts about a run's data; empty where nothing but outputs is known.
        sides: the records of one model; None for a run.
        tuning: the trials that a run was tuned by; None if there were none.
    """

    run: str
    rows: Sequence[Row]
    roc: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    skipped: Mapping[str, str]
    released: str = "logits"
    folder: str = ""
    data: str = ""
    network: str = ""
    defense: str = ""
    guard: str = "none"
    seed: int = 0
    models: int = 1
    strength: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    statement: Statement = field(default_factory=Statement.none)
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    canary: str = "none"
    threat: str = "black_box"
    audit: Mapping[str, Any] = field(default_factory=dict)
    exposed: Mapping[str, Any] = field(default_factory=dict)
    bounded: bool = True
    guard_strength: float | None = None
    canaries: Sequence[str] = ()
    utility: Utility = TEST_ACCURACY
    dataset: Mapping[str, Any] = field(default_factory=dict)
    sides: Sides | None = None
    tuning: TuningOutcome | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values of all that was measured, without what the run itself says."""
        measured = {name: getattr(self, name) for name in MEASURED_FIELDS}
        return {**measured, "rows": [vars(row) for row in self.rows]}

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks that were not skipped, without the baseline that never asks a model."""
        return [attack for attack in self.roc if attack != BLIND_BASELINE]

    def get(self, metric: str, *, attack: str = "", group: str = "all", model: int | str = "all") -> Row:
        """The one row with this metric.

        Raises:
            KeyError: if there is none.
        """
        if (row := self.find(metric, attack=attack, group=group, model=model)) is None:
            raise KeyError(f"no {metric} of attack={attack} group={group} model={model} was measured")
        return row

    def find(self, metric: str, *, attack: str = "", group: str = "all", model: int | str = "all") -> Row | None:
        """The one row with this metric, None if there is none."""
        return self._named.get((metric, attack, group, model))

    @cached_property
    def _named(self) -> dict[tuple[str, str, str, int | str], Row]:
        return {(row.metric, row.attack, row.group, row.model): row for row in self.rows}

    def value(self, metric: str, otherwise: float, *, attack: str = "", group: str = "all") -> float:
        """Value of the row with this metric; `otherwise` where there is none."""
        row = self.find(metric, attack=attack, group=group)
        return otherwise if row is None or row.value is None else row.value

    @cached_property
    def strongest(self) -> str:
        """The attack with the highest TPR at 1 % FPR; the highest AUC decides where not all can resolve that.

        An attack on a sample does not count, unless all are on one.

        Raises:
            ValueError: if all attacks were skipped.
        """
        powers = {
            attack: (self.get(tpr_at(FPR), attack=attack).value, self.get(AUC, attack=attack).value)
            for attack in self.on_all
        }
        return most_powerful(powers)

    @property
    def on_all(self) -> list[str]:
        """The attacks that are on no sample of the records or models, which may be an easy one; all if none is."""
        return [attack for attack in self.attacks if not self.is_sampled(attack)] or self.attacks

    def is_sampled(self, attack: str) -> bool:
        """True if the attack scored less than half of the records, or fewer than 4 of more models."""
        few = self.value(TARGET_COUNT, LEAST_TARGETS, attack=attack) < LEAST_TARGETS
        return few or self.value(UNSCORED_SHARE, 0.0, attack=attack) > MOSTLY_UNSCORED

    def strongest_row(self, metric: str) -> Row | None:
        """The metric of the strongest attack; None if every attack was skipped."""
        return self.get(metric, attack=self.strongest) if self.attacks else None

    def ties(self, attack: str, fpr: float = FPR) -> bool:
        """True if so many non-members tie at the threshold of an attack that its TPR is that of a much smaller FPR.

        Of one model every point of the ROC is known: its threshold has less than half of the allowed FPR, which is
        never so without ties. Of a fleet, the share of non-members that tie in the worst model.
        """
        if self.sides is not None and attack in self.roc:
            resolved = fpr * (self.get(AUC, attack=attack).nonmembers or 0) >= 1
            return (
                resolved
                and max(point for point in self.roc[attack][0] if point <= fpr * (1 + SHARE_ROUNDING)) < fpr / 2
            )
        return self.value(tied_at(fpr), 0.0, attack=attack) > MAX_TIES_PER_FPR * fpr

    @cached_property
    def is_tied(self) -> bool:
        """True if the TPR at 1 % FPR is that of a much smaller one, as of attacks on labels alone."""
        return bool(self.attacks) and self.ties(self.strongest)

    @cached_property
    def tied_share(self) -> float:
        """Share of non-members that tie at the threshold of the strongest attack at 1 % FPR."""
        return self.value(tied_at(FPR), 0.0, attack=self.strongest) if self.attacks else 0.0

    @property
    def is_resolved(self) -> bool:
        """True if the TPR at 1 % FPR says how much leaks: neither too few non-members nor too many of one score."""
        row = self.strongest_row(tpr_at(FPR))
        return row is not None and row.value is not None and not self.is_tied

    def excludes_guessing(self, row: Row) -> bool:
        """Verdict of leakage: the lower end of the interval lies above the 95 % quantile of the null distribution.

        The mean of the null, the chance level, is no bar: half of all fleets that leak nothing lie above it, and the
        interval of a TPR that rests on few non-members is too narrow to make up for that.

        Args:
            row: a TPR at 1 % or 0.1 % FPR, or an AUC, of an attack on all records or on a group.
        """
        return row.low is not None and row.low > self.null_quantile(row)

    def null_quantile(self, row: Row) -> float:
        """The null's 95 % quantile, corrected for choosing the strongest attack or group; of an AUC ½."""
        if row.metric == AUC:
            return GUESSING_AUC
        return self.value(null_at(fpr_of(row)), self.guessing_level(row), attack=row.attack, group=row.group)

    def guessing_level(self, row: Row) -> float:
        """Chance level of a metric; the FPR itself where it was not measured, ½ for an AUC."""
        if row.metric == AUC:
            return GUESSING_AUC
        return self.value(chance_at(fpr_of(row)), fpr_of(row), attack=row.attack, group=row.group)

    @cached_property
    def explained(self) -> float:
        """The share, at most, of what the attack with the highest AUC finds beyond guessing that a difference between
        the records explains: 1 where the blind baseline is not clearly below it, 0 where no difference shows."""
        blind = self.find(AUC, attack=BLIND_BASELINE)
        if blind is None or blind.high is None or self.value(BY_CHANCE, 1.0, attack=BLIND_BASELINE) > DIFFERENCE_ALPHA:
            return 0.0
        low = self.highest.low if self.attacks else None
        return 1.0 if low is None or low <= blind.high else (blind.high - GUESSING_AUC) / (low - GUESSING_AUC)

    @cached_property
    def highest(self) -> Row:
        """The highest AUC of the attacks.

        Raises:
            ValueError: if all attacks were skipped.
        """
        return max((self.get(AUC, attack=attack) for attack in self.attacks), key=lambda row: row.value or 0.0)

    @property
    def is_undefended(self) -> bool:
        """True if neither a defense nor a guard protects the models."""
        return self.defense == "none" and self.guard == "none"

    @property
    def has_canaries(self) -> bool:
        """True if only canaries were scored, rather than all records that a model may be trained on."""
        return self.canary != "none"

    @property
    def accuracies(self) -> tuple[Row | None, Row | None]:
        """Accuracy on records that models were trained on, and on others."""
        if self.sides is not None:
            return self.find(MODEL_ACCURACY, group=MEMBER_GROUP), self.find(MODEL_ACCURACY, group=NONMEMBER_GROUP)
        return self.find(TRAIN_ACCURACY), self.find(TEST_ACCURACY.metric)

    @property
    def gap(self) -> Row | None:
        """Accuracy on members less that on others; None where one of them was not measured.

        Its interval combines both by the square of their distances from the values (MOVER: Newcombe 1998, "Interval
        Estimation for the Difference Between Independent Proportions", method 10).
        """
        inside, outside = self.accuracies
        if inside is None or outside is None or inside.value is None or outside.value is None:
            return None
        gap = inside.value - outside.value
        ends = (inside.low, inside.high, outside.low, outside.high)
        if any(end is None for end in ends):
            return Row(metric=ACCURACY_GAP, value=gap)
        low_in, high_in, low_out, high_out = (end or 0.0 for end in ends)
        below = math.hypot(inside.value - low_in, high_out - outside.value)
        above = math.hypot(high_in - inside.value, outside.value - low_out)
        return Row(metric=ACCURACY_GAP, value=gap, low=gap - below, high=gap + above)

    @property
    def constant_answer(self) -> Row | None:
        """Utility, by the measure that was chosen, of naming one class whatever is asked, the largest one.

        None where it is unknown, or the measure asks for probabilities.
        """
        if self.utility.name == "balanced_accuracy" and (classes := self.dataset.get("classes")):
            return Row(metric=self.utility.metric, value=1 / len(classes))
        if self.utility.name != TEST_ACCURACY.name:
            return None
        return self.find(LARGEST_CLASS, group="all" if self.sides is None else NONMEMBER_GROUP)

    @property
    def utility_text(self) -> str:
        """Utility with its interval beside that of a constant answer, as in
        `test accuracy 93.9 % [93.1–94.6] (always naming one class: 93.0 %)`."""
        text = f"{self.utility.words} {self.utility.text(self.find(self.utility.metric), interval=True)}"
        if (constant := self.constant_answer) is None:
            return text
        return f"{text} (always naming one class: {self.utility.text(constant)})"

    @property
    def worth(self) -> float:
        """Utility by the measure that was chosen; more is better, −inf where it could not be measured."""
        row = self.find(self.utility.metric)
        return -math.inf if row is None else self.utility.worth(row.value)

    @property
    def leakage(self) -> float:
        """TPR at 1 % FPR of the strongest attack, or its AUC where that cannot be resolved.

        Rates that luck explains count alike: which of them is lower says nothing.
        """
        row = self.strongest_row(tpr_at(FPR) if self.is_resolved else AUC)
        if row is None or row.value is None:
            return 0.0
        return FPR if self.is_resolved and row.value <= self.null_quantile(row) else row.value

    @property
    def epsilon(self) -> float | None:
        """ε of the statement: inf if only clipped, None without a guarantee."""
        return self.statement.epsilon

    def tidy(self) -> list[dict[str, Any]]:
        """The rows with what they belong to, by `RESULT_COLUMNS`."""
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
            tidied.append({name: values[name] for name in RESULT_COLUMNS})
        return tidied
