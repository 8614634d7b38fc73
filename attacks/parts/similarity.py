"""Sums over similar records: how much of a quantity lies around each record, never with an n × n matrix in memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int

KERNEL_POWERS = (1, 2, 4, 8, 16)
"""Each the double of the one before: a square leads from one to the next."""
KERNEL_COUNT = 4 * len(KERNEL_POWERS) + 1
RECORDS_PER_BLOCK = 256
"""Records that are compared with all others at once: their similarities stay in a processor's caches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarities:
    """The kernels between records: cosine^p, plain and centered, in the same and in other classes; the class alone.

    A negative cosine counts as 0. A record is not similar to itself, nor to another one of the same person: whatever
    happened to it happened to them.

    Args:
        features: numbers that describe each record.
        labels: classes of the records.
        persons: records of one person share a fate. Default: each record by itself.
        block: how many records are compared with all others at once; the sums are the same up to rounding.
    """

    features: Float[np.ndarray, "records features"]
    labels: Int[np.ndarray, "records"]
    persons: Int[np.ndarray, "records"] | None = None
    block: int = RECORDS_PER_BLOCK
    _order: Int[np.ndarray, "records"] = field(init=False)
    _units: list[Float32[np.ndarray, "records features"]] = field(init=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.labels, kind="stable")  # a class is a slice
        sorted_features = np.asarray(self.features, dtype=np.float32)[order]
        centered = sorted_features - sorted_features.mean(axis=0, dtype=np.float64).astype(np.float32)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_units", [unit(sorted_features), unit(centered)])

    def sums(self, weights: Float[np.ndarray, "rows records"]) -> Float32[np.ndarray, "rows records kernels"]:
        """Σ_j k(i, j) · weights[j] of every row, for each record i and kernel k.

        Args:
            weights: such as, in each model, the membership of every record.
        """
        order = self._order
        labels, persons = self.labels[order], None if self.persons is None else self.persons[order]
        weights = np.ascontiguousarray(weights[:, order], dtype=np.float32)
        sums = np.zeros((*weights.shape, KERNEL_COUNT), dtype=np.float32)
        edges = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1, append=labels[-1:] + 1))
        for low, high in itertools.pairwise(edges.tolist()):
            for start in range(low, high, self.block):
                rows = np.arange(start, min(start + self.block, high))
                own = persons if persons is None else persons[rows, None] == persons
                sums[:, order[rows]] = self._of_block(rows, own, slice(low, high), weights)
        return sums

    def _of_block(
        self, rows: np.ndarray, own: np.ndarray | None, same: slice, weights: Float32[np.ndarray, "rows records"]
    ) -> Float32[np.ndarray, "rows block kernels"]:
        averages = np.empty((len(weights), len(rows), KERNEL_COUNT), dtype=np.float32)

        def without_own(kernel: np.ndarray) -> np.ndarray:
            kernel[np.arange(len(rows)), rows] = 0.0
            if own is not None:
                kernel[own] = 0.0
            return kernel

        kernels = iter(range(KERNEL_COUNT))
        for units in self._units:
            kernel = without_own(np.maximum(units[rows] @ units.T, 0.0))
            for power in KERNEL_POWERS:
                if power > 1:
                    np.square(kernel, out=kernel)
                inside = weights[:, same] @ kernel[:, same].T
                before = weights[:, : same.start] @ kernel[:, : same.start].T
                after = weights[:, same.stop :] @ kernel[:, same.stop :].T
                averages[:, :, next(kernels)], averages[:, :, next(kernels)] = inside, before + after
        equal = np.zeros((len(rows), weights.shape[1]), dtype=np.float32)
        equal[:, same] = 1.0
        averages[:, :, next(kernels)] = weights[:, same] @ without_own(equal)[:, same].T
        return averages


def unit(features: Float32[np.ndarray, "records features"]) -> Float32[np.ndarray, "records features"]:
    """Rows of length 1; a row of zeros, which has no direction, stays as it is."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)
