"""Aggregate: only how many of a group of inputs fall into each class, with noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.fields import Positive
from palisade.targets.guards import grid, keyed
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.keyed import DIGEST_BYTES, digests, generator

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter, Fleet


@dataclass(frozen=True, kw_only=True)
class Aggregate(Guard):
    """Class counts over at least k inputs, each with normal noise.

    A group may hold one record k times, which is the best that an attacker can ask about that record: attacks meet the
    class that such an answer points to. So it hides confidences as `label_only` does, and single labels only where
    the noise is large against k.

    The noise belongs to the group, each input in its cell of a grid (`grid`): the same inputs, in any order and with
    any last bits, get the same noise. That is no differential privacy, and a mean still finds the counts: an input that
    is changed by one step of the grid in a feature that does not matter has noise of its own, and so has every other
    group that holds it. Whoever may ask hundreds of questions meets no noise: limit how many.

    Args:
        k: inputs a query, at least 2.
        noise: standard deviation of what is added to each count, above 0.

    Raises:
        ValueError: if a setting is out of range.
    """

    k: Annotated[int, Field(ge=2, examples=[10])]
    noise: Annotated[Positive, Field(examples=[2.0])]

    name = "aggregate"
    level = "label"
    keeps_label = False
    note = (
        "Its noise is the same for inputs that differ by less than 1/64 of what they vary by, and is no differential"
        " privacy: the mean over questions that differ by more, or about other groups with the same input, comes near"
        " the exact counts. Limit how many questions anyone may ask."
    )

    @property
    def strength(self) -> float:
        """Standard deviation of the noise on a count."""
        return self.noise

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """Key and grid of the noise."""
        return keyed.fit(self.name, fitter, split)

    def not_covered(self, dataset: Dataset) -> str | None:
        """Sentence on the grid of queries, where it comes from private records."""
        return grid.not_covered(dataset)

    def counts(self, query: Query) -> Float64[np.ndarray, " classes"]:
        """Noisy numbers of the inputs that fall into each class.

        Raises:
            ValueError: if the inputs are too few.
        """
        if len(query.x) < self.k:
            raise ValueError(
                f"guard.k={self.k}: expected a query about at least k inputs, not {len(query.x)}; ask about more"
            )
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
