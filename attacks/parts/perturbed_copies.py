"""Perturbed copies of records, and the loop that asks all models of a fleet about the same copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Self

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from pydantic import Field
from scipy.stats import rankdata

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Count, Seed

INPUTS_PER_QUERY = 4096  # inputs a query; more would need more memory, not less time
TRIAL_RECORDS = 500
"""Records that are perturbed at every strength, to choose one for all others."""

Perturbation = Callable[[Real[np.ndarray, "n *shape"], np.random.Generator], Real[np.ndarray, "n *shape"]]


Strengths = Annotated[Sequence[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class PerturbedCopies(Attack):
    """An attack on how many of a record and its perturbed copies are given the true class: the record's votes.

    Features that are all 0 or 1 are flipped, whole numbers (tokens) are replaced by those of another record, all
    others get Gaussian noise; images are moved as well. Every model, target and shadow alike, is shown the same copies.

    Args:
        strengths: to choose from: the probability that a feature is flipped or replaced, the noise in standard
            deviations of each feature; each in (0, 1].
        moves: strengths to choose from besides, of images (channels, height, width) alone: by at most how many pixels
            a copy is shifted either way, around the edges; every other copy is mirrored too.
        copies: of each strength and record.
        seed: of the perturbations.

    Raises:
        ValueError: if a setting is out of range.
    """

    strengths: Strengths = (0.02, 0.05, 0.1, 0.3)
    moves: Sequence[Count] = ()
    copies: Count = 16
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strengths", tuple(self.strengths))
        object.__setattr__(self, "moves", tuple(self.moves))

    @property
    def threat(self) -> ThreatModel:
        """Labels of IN and OUT shadows; with copies, the records and queries about every copy at every strength."""
        asks = self.copies > 0
        queries = 1 + (len(self.strengths) + len(self.moves)) * self.copies
        return ThreatModel(shadows="online", features=asks, free_queries=asks, queries=queries, one_class=True)

    def different_inputs(self, features: Real[np.ndarray, "records *shape"]) -> float:
        """Different inputs among a record and its copies, on average, at the strength with the fewest: what the attack
        costs somebody whose different records are counted.

        Args:
            features: of the records; copies of a few of them are counted.
        """
        return min(self._differing(features)) if self.copies else 1.0

    def without_repeats(self, features: Real[np.ndarray, "records *shape"]) -> Self | None:
        """The attack without strengths at which most copies of a record are equal; None if no noise is left.

        Args:
            features: of the records.
        """
        differing = self._differing(features)
        apart = [2 * count >= 1 + self.copies for count in differing]
        strengths = [each for each, differs in zip(self.strengths, apart, strict=False) if differs]
        moves = [each for each, differs in zip(self.moves, apart[len(self.strengths) :], strict=False) if differs]
        moves = moves if features.ndim == 4 else list(self.moves)
        return replace(self, strengths=strengths, moves=moves) if strengths else None

    def _differing(self, features: Real[np.ndarray, "records *shape"]) -> list[float]:
        """Mean number of different inputs among some records and their copies, at each strength."""
        count = min(len(features), max(1, INPUTS_PER_QUERY // (16 * (1 + self.copies))))
        rng, means = np.random.default_rng(self.seed), []
        rows = np.asarray(features[np.sort(rng.permutation(len(features))[:count])])
        for way in perturbations(features, self.strengths, self.moves):
            copies = way(np.repeat(rows, self.copies, axis=0), rng).reshape(count, self.copies, -1)
            inputs = np.concatenate([rows.reshape(count, 1, -1), copies], axis=1) + 0  # so that −0 is 0
            means.append(float(np.mean([len({row.tobytes() for row in own}) for own in inputs])))
        return means

    def tuned_votes(
        self,
        view: View,
        choose: Callable[[Float[np.ndarray, "strengths models n"], Int[np.ndarray, "n"]], Int[np.ndarray, "models"]],
        *,
        calibrated: bool,
    ) -> tuple[Float[np.ndarray, "strengths models records"], Int[np.ndarray, "models"]]:
        """Votes, and the strength whose votes count for each target.

        A random part of the records is tried at every strength; all others at the chosen ones.

        Args:
            view: what the attacker is granted.
            choose: from the votes on the records that were tried, and their places.
            calibrated: whether a target's shadows are asked at the strength that was chosen for it as well.

        Returns:
            Votes, 0 to 1 + copies, NaN where a model was not asked; and the place of each target's strength.
        """
        if not self.copies:
            return view.correct[None, :, :, 0].astype(np.float64), np.zeros(view.models, dtype=int)
        assert view.features is not None
        ways = perturbations(view.features, self.strengths, self.moves)
        drawn = np.random.default_rng(self.seed).permutation(view.records)
        trial, rest = np.sort(drawn[:TRIAL_RECORDS]), np.sort(drawn[TRIAL_RECORDS:])
        votes = room((len(ways), view.models, view.records))
        votes[:, :, trial] = self._votes(view, ways, trial, np.ones(votes.shape[:2], dtype=bool))
        # Of a balanced fleet, whatever is chosen on a target's shadows leans to the opposite of its membership.
        chosen = np.zeros(view.models, dtype=int) if view.balanced else choose(votes[:, :, trial], trial)
        asked = np.arange(len(ways))[:, None] == chosen
        if calibrated:
            asked = np.broadcast_to(asked.any(axis=1, keepdims=True), asked.shape)
        votes[:, :, rest] = self._votes(view, ways, rest, asked)
        return votes, chosen

    def _votes(
        self,
        view: View,
        ways: Sequence[Perturbation],
        records: Int[np.ndarray, "n"],
        asked: Bool[np.ndarray, "strengths models"],
    ) -> Float[np.ndarray, "strengths models n"]:
        """Number of right answers about each record, at the strengths at which a model is asked."""
        features = view.features
        assert features is not None
        right = np.full((*asked.shape, len(records)), np.nan)
        size = max(1, INPUTS_PER_QUERY // self.copies)
        for start in range(0, len(records), size):
            batch = slice(start, start + size)
            rows, labels = np.asarray(features[records[batch]]), view.labels[records[batch]]
            right[:, :, batch] = [view.predict(model, rows) == labels for model in range(view.models)]
            right[~asked, batch] = np.nan
            for at in np.flatnonzero(asked.any(axis=1)).tolist():
                rng = np.random.default_rng((self.seed, int(records[start]), at))  # whatever else is asked
                copies = ways[at](np.repeat(rows, self.copies, axis=0), rng)
                for model in np.flatnonzero(asked[at]).tolist():
                    answers = view.predict(model, copies).reshape(len(rows), self.copies)
                    right[at, model, batch] += (answers == labels[:, None]).sum(axis=1)
        return right


def perturbations(
    features: Real[np.ndarray, "records *shape"], strengths: Sequence[float], moves: Sequence[int]
) -> list[Perturbation]:
    """The ways in which records of this kind are perturbed, from the weakest to the strongest of each kind."""

    def flip(x: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
        return np.where(rng.random(x.shape, dtype=np.float32) < strength, 1 - x, x)

    def replace(x: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
        donors = features[rng.integers(len(features), size=len(x))]
        return np.where(rng.random(x.shape, dtype=np.float32) < strength, donors, x)

    def blur(x: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
        return x + (strength * deviation * rng.standard_normal(x.shape, dtype=np.float32)).astype(x.dtype)

    if ((features == 0) | (features == 1)).all():
        disturb = flip
    elif np.issubdtype(features.dtype, np.integer):
        disturb = replace
    else:
        deviation, disturb = features.std(axis=0), blur
    ways: list[Perturbation] = [partial(disturb, strength=strength) for strength in strengths]
    return ways + [partial(moved, pixels=pixels) for pixels in moves if features.ndim == 4]


def moved(
    x: Shaped[np.ndarray, "n channels height width"], rng: np.random.Generator, pixels: int
) -> Shaped[np.ndarray, "n channels height width"]:
    """Images, each shifted by up to so many pixels either way, around the edges, and mirrored with probability ½."""
    down, right = rng.integers(-pixels, pixels + 1, size=(2, len(x), 1))
    rows = (np.arange(x.shape[2]) - down) % x.shape[2]
    columns = (np.arange(x.shape[3]) - right) % x.shape[3]
    columns = np.where(rng.random((len(x), 1)) < 0.5, columns[:, ::-1], columns)
    image, channel = np.ogrid[: len(x), : x.shape[1]]
    return x[image[..., None, None], channel[..., None, None], rows[:, None, :, None], columns[:, None, None, :]]


def aucs(
    scores: Float[np.ndarray, "models n"], membership: Bool[np.ndarray, "models n"]
) -> Float[np.ndarray, "models"]:
    """Each model's AUC, by ranks; NaN scores are left out, NaN where members or non-members lack scores."""
    known = ~np.isnan(scores)
    ranks = rankdata(scores, axis=1, nan_policy="omit")
    members, others = (known & membership).sum(axis=1), (known & ~membership).sum(axis=1)
    with np.errstate(invalid="ignore"):
        above = np.where(known & membership, ranks, 0.0).sum(axis=1) - members * (members + 1) / 2
        return np.asarray(above / (members * others))
