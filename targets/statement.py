"""The privacy claim that a model carries with it, in full and in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

INFINITY_TEXT = "inf"
NUMBER_TYPES = ("int", "int | None", "float | None")
"""Types of fields that a card may fill with numbers alone."""
NOT_COVERED = (
    "the choice of hyperparameters, of a checkpoint, and of when to stop, on private records",
    "other models trained on the same records, and earlier trainings of this one: m of them cost up to m·ε and m·δ",
)

STATEMENT_FIELDS = {
    "mechanism": "mechanism",
    "noise_multiplier": "noise multiplier σ", "max_grad_norm": "clipping norm C", "sampling": "sampling",
    "sampling_rate": "sampling rate q", "public_size": "public size N", "steps_planned": "steps planned",
    "steps_done": "steps done", "accountant": "accountant", "epsilon_rdp": "ε by Rényi accounting",
    "neighboring": "neighboring relation", "unit": "unit of privacy", "randomness": "randomness",
    "engine": "engine of clipping",
}  # fmt: skip
"""Words for the numbers of a mechanism, by field of a statement."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A privacy claim, its accounting, and what it does not cover.

    Public: it goes into cards and reports, so nothing in it may depend on the private records.

    Args:
        guarantee: whether anything is claimed at all; without it the other numbers describe the mechanism.
        epsilon: ε at the planned steps, at most inf; None without differential privacy.
        delta: δ of the claim.
        accountant: whose ε it is, "PRV" or "RDP".
        epsilon_rdp: the looser ε of Rényi accounting, for comparison.
        epsilon_spent: ε after the steps that were done, which is no guarantee where the records decided when to stop.
        neighboring: the relation between the data sets that are hard to distinguish.
        unit: what one step of that relation adds or removes: record or group.
        records_per_unit: records of a unit that take part in a step, at most; 1 if records are the unit.
        augmentations: rows of each of these records, averaged before clipping.
        mechanism: what was done with noise, where it is not one training with DP-SGD: votes, or several trainings.
        sampling: how a step's records were chosen.
        public_size: N, treated as public; the divisor of every step is q·N.
        sampling_rate: q, the probability that a record takes part in a step.
        steps_planned: T, what ε is computed for.
        steps_done: at most T; stopping early does not lower ε.
        noise_multiplier: σ, the noise's standard deviation over the clipping norm; of votes, in votes.
        max_grad_norm: C, the clipping norm of a record's gradient; the first one if it adapts.
        clipping: how gradients are clipped.
        engine: how the clipped sums were computed.
        randomness: where the secret came from; never its value.
        noise: how noise is made from it.
        tuning_runs: trainings on the same records that the hyperparameters were chosen by.
        privacy_curve: (ε, δ) pairs, an upper bound on δ(ε).
        withdrawn: why nothing is claimed although ε was accounted for.
        not_covered: what the claim leaves out.
        warnings: what a reader should know about it.
        versions: of the libraries that took part.
    """

    guarantee: bool
    epsilon: float | None = None
    delta: float | None = None
    accountant: str | None = None
    epsilon_rdp: float | None = None
    epsilon_spent: float | None = None
    neighboring: str = "add/remove one record"
    unit: str = "record"
    records_per_unit: int | None = None
    augmentations: int | None = None
    mechanism: str | None = None
    sampling: str | None = None
    public_size: int | None = None
    sampling_rate: float | None = None
    steps_planned: int | None = None
    steps_done: int | None = None
    noise_multiplier: float | None = None
    max_grad_norm: float | None = None
    clipping: str | None = None
    engine: str | None = None
    randomness: str | None = None
    noise: str | None = None
    tuning_runs: int = 0
    privacy_curve: tuple[tuple[float, float], ...] = ()
    withdrawn: str | None = None
    not_covered: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.guarantee and (self.epsilon is None or self.delta is None or math.isinf(self.epsilon)):
            raise ValueError(
                f"epsilon={self.epsilon}, delta={self.delta}: expected finite numbers for a guarantee; give both, or"
                " guarantee=False"
            )

    @classmethod
    def none(cls) -> Statement:
        """The statement of a defense that proves nothing."""
        return cls(guarantee=False)

    def leaving_out(self, *reasons: str | None) -> Statement:
        """This claim with more that it does not cover; None is nothing."""
        return replace(self, not_covered=(*self.not_covered, *(reason for reason in reasons if reason is not None)))

    def sentence(self) -> str:
        """The claim in plain words, for cards and reports."""
        if not self.guarantee:
            clipped = "; gradients were clipped, without noise" if self.noise_multiplier == 0 else ""
            why = f": {self.withdrawn}" if self.withdrawn else ""
            return f"no formal guarantee{why}{clipped}"
        # Rounded up: a claim may be understated in protection, never in ε.
        epsilon, delta = self.epsilon or 0.0, rounded_up(self.delta or 0.0)
        sampling = None if self.sampling is None else f"{self.sampling} sampling"
        how = [f"{self.accountant} accountant", self.mechanism, sampling, f"randomness from the {self.randomness}"]
        claim = (
            f"(ε = {rounded_up(epsilon)}, δ = {delta})-differential privacy per {self.unit} ({self.neighboring}), "
            + ", ".join(part for part in how if part is not None)
        )
        if self.tuning_runs:
            runs = self.tuning_runs + 1
            together = f"ε = {rounded_up(runs * epsilon)}, δ = {rounded_up(runs * (self.delta or 0.0))}"
            claim += f"; {runs} trainings on the same records, tuning included, cost {together} by adding up"
        if (self.steps_done or 0) < (self.steps_planned or 0):
            claim += (
                f"; stopped after {self.steps_done} of {self.steps_planned} steps:"
                f" ε = {rounded_up(self.epsilon_spent or 0.0)} was spent, which is not a guarantee"
            )
        return claim

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON; an infinite ε is the string "inf"."""
        return {name: INFINITY_TEXT if value == math.inf else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Statement:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the content is no statement.
        """
        if unknown := sorted(set(content) - {field.name for field in fields(cls)}):
            raise ValueError(f"statement.{unknown[0]} is unknown; it was written by another version, use that one")
        for name in (name for name, kind in cls.__annotations__.items() if kind in NUMBER_TYPES):
            value = content.get(name)
            if not (isinstance(value, int | float) or value is None or value == INFINITY_TEXT):
                raise ValueError(f"statement.{name}={value!r}: expected a number; get the card anew")
        values: dict[str, Any] = {
            name: math.inf if value == INFINITY_TEXT else value for name, value in content.items()
        }
        for name in ("not_covered", "warnings"):
            values[name] = tuple(values.get(name, ()))
        values["privacy_curve"] = tuple((epsilon, delta) for epsilon, delta in values.get("privacy_curve", ()))
        return cls(**values)


def rounded_up(value: float, digits: int = 3) -> str:
    """A number of a claim to so many digits that count, rounded up: it may be understated in protection alone."""
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    rounded = math.ceil(value / unit - 1e-9) * unit
    return f"{rounded:.{digits}g}"
