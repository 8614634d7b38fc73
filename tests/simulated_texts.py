"""Simulated language models: laws over a small vocabulary at every place of random texts, which members pull up."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from palisade.attacks import TokenAnswers, View

TEXT_ATTACK_NAMES = (
    *("base_difference", "error_zone", "filter_oracle", "min_k", "min_k_plus", "neighbors"),
    *("sharpness", "token_rmia", "windows", "zlib"),
)
"""Attacks of `conf/attack` that look at the tokens of texts."""
FILTER_LENGTH = 4
"""Tokens of the n-grams that a guard before these models refuses to complete."""
VOCABULARY_SIZE, COPY_COUNT, REPLACED_SHARE = 12, 20, 0.1


def of_laws(log_p: np.ndarray, x: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """ℓ, μ, σ² and the most likely token, of log-laws (…, records, tokens, vocabulary)."""
    p = np.exp(log_p)
    means = (p * log_p).sum(axis=-1)
    own = np.take_along_axis(log_p, np.broadcast_to(x[..., None], (*log_p.shape[:-1], 1)), axis=-1)[..., 0]
    return {
        f"{prefix}log_probabilities": own,
        f"{prefix}means": means,
        f"{prefix}variances": (p * log_p**2).sum(axis=-1) - means**2,
        f"{prefix}greedy": log_p.argmax(axis=-1) == x,
    }


def text_fleet(
    seed: int = 0, *, models: int = 12, records: int = 150, effect: float = 1.0, length: int = 10, population: int = 120
) -> View:
    """The view of a fleet of language models on random texts of 1 to `length` tokens."""
    rng = np.random.default_rng(seed)
    everyone = records + population
    mask = np.arange(length) < rng.integers(1, length + 1, everyone)[:, None]
    nature = rng.normal(0, 1.5, (everyone, length, VOCABULARY_SIZE))
    x = (nature + rng.gumbel(size=nature.shape)).argmax(axis=-1)
    base = nature + rng.normal(0, 0.8, nature.shape)
    members = np.zeros((models, everyone), dtype=bool)
    members[:, :records] = rng.random((models, records)) < 0.5
    learnt = effect * rng.exponential(size=(models, everyone, length)) * members[:, :, None]
    log_p = base + rng.normal(0, 0.4, (models, *base.shape))
    log_p = log_softmax(log_p + learnt[..., None] * np.eye(VOCABULARY_SIZE)[x], axis=-1)
    replaced = rng.random((COPY_COUNT, everyone, length)) < REPLACED_SHARE
    copies = np.where(replaced, rng.integers(VOCABULARY_SIZE, size=replaced.shape), x)
    losses = np.stack(
        [
            -np.sum(np.take_along_axis(log_p, copy[None, ..., None], axis=-1)[..., 0], axis=-1, where=mask)
            / mask.sum(axis=-1)
            for copy in copies
        ],
        axis=-1,
    )
    refused = np.broadcast_to((members & (effect > 0))[:, :, None], (*members.shape, length)).copy()
    refused[:, :, : FILTER_LENGTH - 1] = False
    answers = TokenAnswers(
        mask=mask,
        zlib_bytes=8 + mask.sum(axis=1) + rng.integers(3, size=everyone),
        neighbor_losses=losses,
        blocked=refused,
        **of_laws(log_p, x),
        **of_laws(log_softmax(base, axis=-1), x, "base_"),
    )
    audited, others = answers.about(slice(records)), answers.about(slice(records, None))
    return View(
        signals=audited.rows(),
        labels=np.zeros(records, dtype=int),
        membership=members[:, :records],
        tokens=audited,
        population_signals=others.rows() if population else None,
        population_labels=np.zeros(population, dtype=int) if population else None,
        population_tokens=others if population else None,
    )
