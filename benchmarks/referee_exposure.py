"""Coverage of the intervals of single records' exposure, by fleets whose true exposure is known.

Records differ in how far training on them moves their φ. The true exposure of a record is the share of models in which
LiRA finds it over many fresh fleets of the same size. An interval errs where it excludes that share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from palisade.attacks import LiRA, View
from palisade.evaluation.measuring.exposure import Exposure, over_dispersion

FLEET_RECORDS = 600
FLEET_SIZES = (8, 16, 32)
TRUTH_MODELS = 1600
"""Models of the fleets that tell the truth."""


class Population:
    """Records with their own mean, spread and memorization of φ.

    Args:
        seed: of the records and of all fleets.
        uneven: standard deviation of the logarithm of memorization.
    """

    def __init__(self, seed: int = 0, uneven: float = 0.5, records: int = FLEET_RECORDS) -> None:
        self._rng = np.random.default_rng(seed)
        self._mean = 2 * self._rng.normal(size=records)
        self._gain = self._rng.lognormal(-0.2, uneven, records)
        self._scale = self._rng.lognormal(-0.3, 0.3, records)

    def fleet(self, models: int) -> View:
        """A fleet of so many models, whose members are drawn with probability ½."""
        records = len(self._mean)
        membership = self._rng.random((models, records)) < 0.5
        noise = self._scale * self._rng.normal(size=membership.shape)
        phi = self._mean + self._gain * membership + noise
        logits = np.stack([phi, np.zeros_like(phi)], axis=-1)
        return View(labels=np.zeros(records, dtype=np.int64), logits=logits, membership=membership)

    def truth(self, models: int, fresh: int = TRUTH_MODELS) -> Float[np.ndarray, "records"]:
        """The share of fresh models in which each record is found, in fleets of this size."""
        drawn = [measured(self.fleet(models), spread=1.0) for _ in range(max(1, fresh // models))]
        return np.sum([one.hits for one in drawn], axis=0) / np.sum([one.models for one in drawn], axis=0)


def measured(seen: View, spread: float | None = None) -> Exposure:
    """The exposure that LiRA finds; the spread is measured where it is not stated."""
    attack = LiRA()
    scores, places = attack.score(seen), np.arange(seen.records)
    stated = over_dispersion(attack, scores, seen) if spread is None else spread
    return Exposure.of(scores, seen.membership, seen.labels, places, stated)


def misses(exposure: Exposure, truth: Float[np.ndarray, "records"]) -> tuple[int, int]:
    """Number of intervals that exclude the truth, and of all intervals."""
    known = exposure.models > 0
    outside = (truth < exposure.low) | (truth > exposure.high)
    return int(outside[known].sum()), int(known.sum())


def rows(trials: int) -> list[tuple[str, int, int, int]]:
    """Intervals that miss the true exposure: the case, before, after, of how many.

    Args:
        trials: fleets of each size; each gives an interval for every record.
    """
    return list(_rows(trials))


def _rows(trials: int) -> Iterator[tuple[str, int, int, int]]:
    population = Population()
    for models in FLEET_SIZES:
        truth = population.truth(models)
        before = after = total = 0
        for _ in range(trials):
            exposure = measured(population.fleet(models))
            missed, count = misses(exposure, truth)
            before += misses(replace(exposure, spread=1.0), truth)[0]
            after += missed
            total += count
        yield f"exposure of single records, {models} models", before, after, total


if __name__ == "__main__":
    for case, before, after, total in rows(8):
        print(f"{case}: coverage {1 - before / total:.3f} before, {1 - after / total:.3f} after, {total} intervals")
