"""Index-batched loading: a whole step is gathered with one indexing operation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, Real
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.samplers import Sampler, Step


class Batch(NamedTuple):
    """One step's records; a leading model axis is there when a stack is trained."""

    x: Real[Tensor, "*models batch ..."]
    y: Int64[Tensor, "*models batch"]
    mask: Bool[Tensor, "*models batch"]
    records: Int64[Tensor, "*models batch"]


class Gather(Dataset[Batch]):
    """Turns a sampler's step into a `Batch`.

    Args:
        x: inputs of all records, in memory or memory-mapped.
        y: their labels.
        stacked: whether to keep the sampler's model axis.
    """

    def __init__(self, x: Real[np.ndarray, "records ..."], y: Int64[np.ndarray, " records"], *, stacked: bool):
        self.x, self.y, self.stacked = x, torch.tensor(y), stacked

    def __getitem__(self, step: Step) -> Batch:
        index, mask = step if self.stacked else (step[0][0], step[1][0])
        return Batch(torch.from_numpy(self.x[index]), self.y[index], torch.from_numpy(mask), torch.from_numpy(index))


def training_loader(data: Gather, sampler: Sampler) -> DataLoader[Batch]:
    """A loader whose items are whole steps (a default loader makes a small fit five times slower)."""
    return DataLoader(data, sampler=sampler, batch_size=None, collate_fn=lambda batch: batch)
