"""The grid of a guard's queries: inputs that differ by less than one step get the same randomness.

Randomness that belonged to the very bytes of an input would be averaged away by changes of its last bits, which no
model notices. A step is 1/64 of what a value varies by: of 1 where the preprocessing scales values to about that, and
of their standard deviation where it leaves them as they are. It is rounded down to a power of two in the units of the
raw rows, so that zeros and ones, whole numbers that vary by less than 128, and pixels all stay what they are.

Who changes an input by a whole step, or finds one at the border between two cells, meets other randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Real

from palisade.data.dataset import Dataset
from palisade.data.preprocessing import Scale
from palisade.data.split import Split

if TYPE_CHECKING:
    from torch import Tensor

STEPS_PER_SPREAD = 64
"""Steps in what a value varies by: the fewest that leave each of 256 shades its own cell, whatever their deviation."""
CELL_BORDER = 0.5 - (5**0.5 - 2) / 2
"""Steps from a point of the grid to the next cell: no fraction in which data are written, so that few lie on it."""
SPREAD_RECORDS = 1000  # records that show how much a value varies
SHIFT_KEY, FACTOR_KEY, STEP_KEY = "grid.shift", "grid.factor", "grid.step"
"""Under which names a guard's state holds the grid."""


def fit(dataset: Dataset, split: Split) -> dict[str, Tensor]:
    """The grid of a data set's inputs; nothing for whole numbers, which stay as they are.

    Args:
        dataset: whose inputs are asked about.
        split: the roles of its records: where values are not scaled, reference records show how much they vary, or the
            pool if there are none.
    """
    import torch  # slow to import; guards that are only read need none of it

    if dataset.x.dtype.kind != "f":
        return {}
    step, shift, factor = np.array([1 / STEPS_PER_SPREAD]), np.zeros(1), np.ones(1)
    if isinstance(preprocessing := dataset.preprocessing, Scale):
        if preprocessing.is_identity:
            step = _power_of_two(_spread(dataset, split) / STEPS_PER_SPREAD)
        else:
            shift, factor = (preprocessing.broadcast(values) for values in (preprocessing.shift, preprocessing.factor))
            step = _power_of_two(1 / (STEPS_PER_SPREAD * np.abs(factor)))
    return {
        name: torch.from_numpy(values) for name, values in ((SHIFT_KEY, shift), (FACTOR_KEY, factor), (STEP_KEY, step))
    }


def not_covered(dataset: Dataset) -> str | None:
    """Sentence for the statement on a grid computed from private records; None where it is not."""
    scale = dataset.preprocessing
    if dataset.published is not None or not isinstance(scale, Scale) or not scale.is_identity:
        return None
    return "the guard: its grid of inputs was taken from the standard deviations of the private records"


def snapped(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> Float32[np.ndarray, "records ..."]:
    """The nearest inputs on the grid; those of raw rows on it stay what they are to the last bit, with a single zero.

    Raises:
        ValueError: if the guard has learned no grid.
    """
    if STEP_KEY not in state:
        raise ValueError("the guard's state holds no grid of inputs; it was written by another version, use that one")
    shift, factor, step = (state[name].numpy() for name in (SHIFT_KEY, FACTOR_KEY, STEP_KEY))
    rows = np.ceil((x / factor + shift) / step - CELL_BORDER) * step
    with np.errstate(over="ignore"):  # beside the largest number of float32 is infinity, which is a cell as any other
        return ((rows - shift) * factor).astype(np.float32) + np.float32(0)


def _spread(dataset: Dataset, split: Split) -> Float64[np.ndarray, "*shape"]:
    """The standard deviation of each value over some records; 1 for one that does not vary."""
    records = split.reference if len(split.reference) else split.pool
    seen = dataset.x[records[:: max(1, len(records) // SPREAD_RECORDS)]]
    deviation = seen.std(axis=0, dtype=np.float64)
    return np.where(deviation > 0, deviation, 1.0)


def _power_of_two(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The largest power of two that does not exceed each value."""
    return np.exp2(np.floor(np.log2(values)))
