"""Index-batched loading: a whole step is gathered with one indexing operation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Real
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from palisade.data.samplers import Sampler, Step


class Batch(NamedTuple):
    """One step's records; a leading model axis is there when a stack is trained.

    Soft labels, where a defense trains on any, stand in `targets` beside the classes.
    """

    x: Real[Tensor, "*models batch ..."]
    y: Int64[Tensor, "*models batch"]
    mask: Bool[Tensor, "*models batch"]
    records: Int64[Tensor, "*models batch"]
    targets: Float[Tensor, "*models batch classes"] | None = None


class Gather(Dataset[Batch]):
    """Turns a sampler's step into a `Batch`.

    Args:
        x: inputs of all records, in memory or memory-mapped.
        y: their labels.
        stacked: whether to keep the sampler's model axis.
        soft_labels: for every model of the stack the probabilities of the classes that it is to learn, instead of `y`.
    """

    def __init__(
        self,
        x: Real[np.ndarray, "records ..."],
        y: Int64[np.ndarray, " records"],
        *,
        stacked: bool,
        soft_labels: Float32[np.ndarray, "models records classes"] | None = None,
    ) -> None:
        self.x, self.y, self.stacked, self.soft_labels = x, torch.tensor(y), stacked, soft_labels

    def __getitem__(self, step: Step) -> Batch:
        index, mask = step if self.stacked else (step[0][0], step[1][0])
        return Batch(
            torch.from_numpy(self.x[index]),
            self.y[index],
            torch.from_numpy(mask),
            torch.from_numpy(index),
            None if self.soft_labels is None else torch.from_numpy(self._soft_labels(index)),
        )

    def _soft_labels(self, index: Int64[np.ndarray, "*models batch"]) -> Float32[np.ndarray, "*models batch classes"]:
        assert self.soft_labels is not None
        model = np.arange(len(index))[:, None] if self.stacked else 0
        return self.soft_labels[model, index]


def training_loader(data: Gather, sampler: Sampler) -> DataLoader[Batch]:
    """A loader whose items are whole steps (a default loader makes a small fit five times slower)."""
    return DataLoader(data, sampler=sampler, batch_size=None, collate_fn=lambda batch: batch)
