"""Noisy votes of teachers, and what they prove."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Real

from palisade.defenses.dp_sgd.accounting import Phase, rdp_epsilon
from palisade.defenses.dp_sgd.noise import NoiseSource
from palisade.fields import CheckedFields, Positive, as_written
from palisade.targets.fleet import Fleet

UNANSWERED_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class NoisyVotes(CheckedFields):
    """GNMax and Confident-GNMax: the class with the most votes after noise was added (Papernot et al. 2018).

    One record is in one teacher's hands, who may move one vote of each query from a class to another: the votes change
    by √2 at most in the L2 norm, and the largest count by 1.

    Args:
        noise_multiplier: σ > 0, standard deviation of the noise in votes.
        threshold: votes that the first class must have, after noise of its own, for a query to be answered
            (Confident-GNMax, algorithm 1); None answers all.
        threshold_noise_multiplier: σ₁ > 0 of that check, in votes.

    Raises:
        ValueError: if a value is out of range, or one of threshold and its noise is missing.
    """

    noise_multiplier: Positive
    threshold: float | None = None
    threshold_noise_multiplier: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.threshold is None) != (self.threshold_noise_multiplier is None):
            noise = as_written(self.threshold_noise_multiplier)
            raise ValueError(
                f"threshold={as_written(self.threshold)}: expected null with threshold_noise_multiplier={noise}; set"
                " both or none"
            )

    def text(self, queries: int) -> str:
        """The released answers, in words."""
        checked = (
            "" if self.threshold is None else f", each after a check with σ = {self.threshold_noise_multiplier:g},"
        )
        return f"{queries} noisy votes with σ = {self.noise_multiplier:g}{checked}"

    def epsilon(self, queries: int, delta: float) -> float:
        """ε by Rényi accounting: RDP(α) = Q·α/σ² (proposition 8), and Q·α/(2·σ₁²) for the checks.

        Every query is paid for as if it were answered: how many are depends on the records.
        """
        history = [Phase(self.noise_multiplier / math.sqrt(2), 1.0, queries)]
        if self.threshold_noise_multiplier is not None:
            history.append(Phase(self.threshold_noise_multiplier, 1.0, queries))
        return rdp_epsilon(tuple(history), delta)

    def answers(
        self, votes: Real[np.ndarray, "queries classes"], noise: NoiseSource, model: int
    ) -> Int64[np.ndarray, " queries"]:
        """The class of each query, `UNANSWERED_LABEL` where too few teachers agree.

        Args:
            votes: how many teachers chose each class.
            noise: of the run.
            model: whose teachers these are.
        """
        noisy = votes + self._noise(votes.shape, self.noise_multiplier, noise, model, "votes")
        chosen: Int64[np.ndarray, " queries"] = noisy.argmax(axis=-1)
        if self.threshold is None or self.threshold_noise_multiplier is None:
            return chosen
        checks = self._noise(votes.shape[:1], self.threshold_noise_multiplier, noise, model, "threshold")
        return np.where(votes.max(axis=-1) + checks >= self.threshold, chosen, UNANSWERED_LABEL)

    def _noise(
        self, shape: tuple[int, ...], scale: float, noise: NoiseSource, model: int, purpose: str
    ) -> Float[np.ndarray, "*shape"]:
        count = math.prod(shape)
        drawn = np.empty(count + count % 2, dtype=np.float32)  # normal numbers come in pairs
        noise.fill(drawn, model=model, step=0, scale=scale, purpose=purpose)
        return drawn[:count].reshape(shape)


def count_votes(teachers: Sequence[Fleet], x: Real[np.ndarray, "queries ..."]) -> Int64[np.ndarray, "queries classes"]:
    """Number of teachers that choose each class.

    Args:
        teachers: each a fleet of one.
        x: inputs of the queries.
    """
    votes: Int64[np.ndarray, "queries classes"] | None = None
    for teacher in teachers:
        logits = teacher.predict(x)[0]
        chosen = np.eye(logits.shape[-1], dtype=np.int64)[logits.argmax(axis=-1)]
        votes = chosen if votes is None else votes + chosen
    assert votes is not None
    return votes
