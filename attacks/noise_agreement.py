"""Noise agreement: how often is the record still classified correctly when it is disturbed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from sklearn.metrics import roc_auc_score

from attacks.base import Attack
from attacks.threat import ThreatModel
from attacks.view import View

BATCH = 4096  # inputs a query; more would need more memory, not less time
TRIAL = 500
"""How many records are disturbed at every strength, to choose one for all others."""

Disturb = Callable[[Real[np.ndarray, "n *shape"], float, np.random.Generator], Real[np.ndarray, "n *shape"]]


@dataclass(frozen=True, kw_only=True)
class NoiseAgreement(Attack):
    """Score: share of a record and its disturbed copies that are given the true class.

    Training pushes the decision boundary away from members, so they bear more noise (Choquette-Choo et al. 2021,
    "Label-Only Membership Inference Attacks", section 3; Li & Zhang 2021): hiding every confidence does not hide them.
    Features that are all 0 or 1 are flipped, whole numbers (tokens) are replaced by those of another record, all
    others get Gaussian noise. Every model is shown the same copies; the strength that separates members of the other
    models best, on a random part of the records, is taken for a target.

    Args:
        strengths: to choose from: the probability that a feature is flipped or replaced, the noise in standard
            deviations of each feature; each in (0, 1].
        copies: of each strength and record, at least 1; queries a record are 1 + strengths · copies at most.
        seed: of the noise.

    Raises:
        ValueError: if a setting is out of range.
    """

    strengths: Sequence[float] = (0.02, 0.05, 0.1, 0.3)
    copies: int = 16
    seed: int = 0

    name = "noise_agreement"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(self.strengths))
        if not self.strengths or not all(0 < strength <= 1 for strength in self.strengths):
            raise ValueError(f"strengths={list(self.strengths)}; choose at least one, each above 0 and at most 1")
        if self.copies < 1:
            raise ValueError(f"copies={self.copies} is no count; choose a whole number from 1 on")

    @property
    def threat(self) -> ThreatModel:
        queries = 1 + len(self.strengths) * self.copies
        return ThreatModel(shadows="online", features=True, free_queries=True, queries=queries)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        every = np.ones((len(self.strengths), view.models), dtype=bool)
        drawn = np.random.default_rng(self.seed).permutation(view.records)
        trial, rest = np.sort(drawn[:TRIAL]), np.sort(drawn[TRIAL:])
        tried = self._agreement(view, trial, every)
        models = np.arange(view.models)
        scores = np.empty((view.models, view.records))
        for asked, known in view.parts:
            told, own, others = np.isin(trial, known), np.isin(trial, asked), rest[np.isin(rest, asked)]
            best = _best(tried[:, :, told], view.membership[:, trial[told]], view.others)
            scores[:, trial[own]] = tried[best, models][:, own]
            scores[:, others] = self._agreement(view, others, np.arange(len(every))[:, None] == best)[best, models]
        return scores

    def _agreement(
        self, view: View, records: Int[np.ndarray, "n"], asked: Bool[np.ndarray, "strengths models"]
    ) -> Float[np.ndarray, "strengths models n"]:
        """The share of each record's answers that are right, at the strengths at which a model is asked."""
        features = view.features
        assert features is not None
        disturb = _kind(features)
        right = np.full((*asked.shape, len(records)), np.nan)
        size = max(1, BATCH // self.copies)
        for start in range(0, len(records), size):
            batch = slice(start, start + size)
            rows, labels = np.asarray(features[records[batch]]), view.labels[records[batch]]
            rng = np.random.default_rng((self.seed, int(records[start])))
            right[:, :, batch] = [view.predict(model, rows) == labels for model in range(view.models)]
            for at, strength in enumerate(self.strengths):
                if not asked[at].any():
                    continue
                copies = disturb(np.repeat(rows, self.copies, axis=0), strength, rng)
                for model in np.flatnonzero(asked[at]).tolist():
                    answers = view.predict(model, copies).reshape(len(rows), self.copies)
                    right[at, model, batch] += (answers == labels[:, None]).sum(axis=1)
        return right / (1 + self.copies)


def _best(
    agreement: Float[np.ndarray, "strengths models n"],
    membership: Bool[np.ndarray, "models n"],
    others: Bool[np.ndarray, "models models"],
) -> Int[np.ndarray, "models"]:
    """For each target the strength that separates members of the other models best."""
    skill = np.array([[_auc(row) for row in zip(at, membership, strict=True)] for at in agreement])
    known = ~np.isnan(skill)
    shadows = others.astype(np.float64)
    with np.errstate(invalid="ignore"):
        on_shadows = np.where(known, skill, 0) @ shadows / (known @ shadows)
    return np.argmax(np.nan_to_num(on_shadows), axis=0)


def _kind(features: Real[np.ndarray, "records *shape"]) -> Disturb:
    """How records of this kind are disturbed."""

    def flip(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(x.shape, dtype=np.float32) < strength, 1 - x, x)

    def replace(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        donors = features[rng.integers(len(features), size=len(x))]
        return np.where(rng.random(x.shape, dtype=np.float32) < strength, donors, x)

    def blur(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return x + (strength * deviation * rng.standard_normal(x.shape, dtype=np.float32)).astype(x.dtype)

    if ((features == 0) | (features == 1)).all():
        return flip
    if np.issubdtype(features.dtype, np.integer):
        return replace
    deviation = features.std(axis=0)
    return blur


def _auc(row: tuple[np.ndarray, np.ndarray]) -> float:
    agreement, member = row
    return float(roc_auc_score(member, agreement)) if member.any() and not member.all() else np.nan
