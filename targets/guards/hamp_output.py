"""HAMP's output step: every answer has the confidences of a random input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.data.tokens import Tokens
from palisade.targets.guards import grid, keyed
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.keyed import generators
from palisade.targets.guards.probabilities import predicting, probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter, Fleet

VALUES_KEY = "values"
NORMAL_VALUES = 256
BINARY_CHECK_RECORDS = 1000  # records that show whether inputs are 0 and 1
BINARY_NOT_COVERED = "the guard: whether inputs are zeros and ones was read off the private records"
"""Sentence of a statement on the values that are drawn from."""


@dataclass(frozen=True, kw_only=True)
class HAMPOutput(Guard):
    """The sorted probabilities of a random input, dealt out by the ranks of the query's own ones.

    So an answer reveals nothing about a record but the order of its classes (Chen & Pattabiraman 2024, "Overconfidence
    is a Dangerous Thing", the modification at testing time); what labels reveal stays. The random input belongs to the
    query, so that asking again reveals nothing new.

    It is drawn from what is public about inputs: zeros and ones where there is nothing else, any words where they are
    words, otherwise a standard normal distribution, since numbers are scaled to about that.
    """

    name = "hamp_output"

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """Key and grid of the random inputs, and the values that are drawn from."""
        import torch  # slow to import; reading a guard needs none of it

        return {**keyed.fit(self.name, fitter, split), VALUES_KEY: torch.from_numpy(_values(fitter))}

    def not_covered(self, dataset: Dataset) -> str | None:
        """Sentence on the values that random inputs are drawn from, and on the grid; None for public data and texts."""
        if dataset.published is not None or isinstance(dataset.preprocessing, Tokens):
            return None
        return "; ".join(filter(None, (BINARY_NOT_COVERED, grid.not_covered(dataset))))

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Probabilities of a random input, reordered so that each class keeps its rank in the model's answer."""
        if not len(query.x):
            return probabilities(query.logits)
        values, shape = query.state[VALUES_KEY].numpy(), query.x.shape[1:]
        drawn = [values[rng.integers(len(values), size=shape)] for rng in generators(query.x, query.state)]
        confidences = np.sort(probabilities(query.ask(np.stack(drawn))), axis=-1)
        ranks = query.logits.argsort(axis=-1, kind="stable").argsort(axis=-1)
        return predicting(query.logits.argmax(axis=-1), np.take_along_axis(confidences, ranks, axis=-1))


def _values(fitter: Fitter) -> np.ndarray:
    """Values of a number of an input, each as likely as any other."""
    preprocessing, x = fitter.dataset.preprocessing, fitter.dataset.x[:BINARY_CHECK_RECORDS]
    if isinstance(preprocessing, Tokens):
        return np.arange(preprocessing.buckets)
    if ((x == 0) | (x == 1)).all():
        return np.array([0, 1], dtype=x.dtype)
    from scipy.special import ndtri  # slow to import

    return ndtri((np.arange(NORMAL_VALUES) + 0.5) / NORMAL_VALUES).astype(x.dtype)
