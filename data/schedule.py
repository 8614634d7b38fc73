"""Training schedule of a fleet: sampling rate, steps and δ, from public numbers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from palisade.fields import CheckedFields, Count


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule(CheckedFields):
    """Public numbers of a run, for all its models: sampling rate, steps and δ, computed from the public size N.

    Membership is random, so models differ in size. If the number of steps or the divisor of a gradient
    followed the realised size, it would reveal how many records are members, and the claim (ε, δ) for adding or
    removing one record would not hold. Nothing here looks at a model's own records.

    Args:
        size: N ≥ 1, the public number of training records of a model (`Membership.public_size`).
        batch_size: B, expected records in a batch, 1 to N.
        epochs: passes over N records, at least 1.

    Raises:
        ValueError: if a number is out of range.
    """

    size: int
    batch_size: Count
    epochs: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"N={self.size}: expected a record to train on; raise split.pool or membership.share")
        if self.batch_size > self.size:
            raise ValueError(f"batch_size={self.batch_size}: expected at most {self.size}, the public size N; lower it")

    @property
    def sampling_rate(self) -> float:
        """q = B/N, the probability that a record takes part in a step."""
        return self.batch_size / self.size

    @property
    def steps_per_epoch(self) -> int:
        """⌈N/B⌉."""
        return math.ceil(self.size / self.batch_size)

    @property
    def steps(self) -> int:
        """T = epochs · ⌈N/B⌉."""
        return self.epochs * self.steps_per_epoch

    @property
    def delta(self) -> float:
        """δ = N^−1.1, a little below 1/N."""
        return float(self.size**-1.1)
