"""Aggregate: only how many of a group of inputs fall into each class, with noise."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from datamodules.split import Split
from targets.guards.guard import Guard, Query, is_number, is_whole
from targets.guards.keyed import DIGEST_BYTES, KEY, digests, draw_key, generator

if TYPE_CHECKING:
    from torch import Tensor

    from targets.fleet import Fitter, Fleet


@dataclass(frozen=True, kw_only=True)
class Aggregate(Guard):
    """Class counts over at least k inputs, each with normal noise.

    A group may hold one record k times, which is the best that an attacker can ask about that record: attacks meet the
    class that such an answer points to. So it hides confidences as `label_only` does, and single labels only where
    the noise is large against k. The noise belongs to the group: the same inputs, in any order, get the same counts.

    Args:
        k: inputs a query, at least 2.
        noise: standard deviation of what is added to each count, above 0.

    Raises:
        ValueError: if a setting is out of range.
    """

    k: int
    noise: float

    name = "aggregate"
    level = "label"
    keeps_label = False

    def __post_init__(self) -> None:
        if not is_whole(self.k) or self.k < 2:
            raise ValueError(f"guard.k={self.k} is no group of inputs; choose a whole number from 2 on")
        if not is_number(self.noise) or not 0 < self.noise < math.inf:
            raise ValueError(f"guard.noise={self.noise} is no standard deviation of counts; choose a number above 0")

    @property
    def strength(self) -> float:
        return self.noise

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """The key of the noise."""
        return {KEY: draw_key(self.name, fitter)}

    def counts(self, query: Query) -> Float64[np.ndarray, " classes"]:
        """Noisy numbers of the inputs that fall into each class.

        Raises:
            ValueError: if the inputs are too few.
        """
        if len(query.x) < self.k:
            raise ValueError(f"guard.k={self.k}: a query about {len(query.x)} inputs is refused; ask about at least k")
        exact = np.bincount(query.logits.argmax(axis=-1), minlength=query.logits.shape[-1])
        return exact + self._noise(digests(query.x, query.state), len(exact))

    def answer(self, query: Query) -> Int64[np.ndarray, " records"]:
        """For each input, the class that most of k copies of it seem to fall into."""
        classes = query.logits.shape[-1]
        alone = [self._noise([digest] * self.k, classes) for digest in digests(query.x, query.state)]
        noise = np.reshape(alone, (len(query.x), classes))
        return (self.k * np.eye(classes)[query.logits.argmax(axis=-1)] + noise).argmax(axis=-1)

    def _noise(self, group: list[bytes], classes: int) -> Float64[np.ndarray, " classes"]:
        """Of a group of inputs, by their digests."""
        together = hashlib.blake2b(b"".join(sorted(group)), digest_size=DIGEST_BYTES).digest()
        return self.noise * generator(together).standard_normal(classes)
