"""Deduplication: of several like records a model sees one, whatever defense it is then trained under."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int64, Real
from numpy import ndarray
from pydantic import Field
from torch import nn

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.defenses.parts.composition import Composed, check_epochs
from palisade.defenses.parts.likeness import cosine, jaccard
from palisade.fields import remedy
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.statement import Statement

RECORDS_PER_BLOCK = 1024
SIMILARITY_WARNING = (
    "records were removed by similarity: one record less may bring others back, so the base's ε does not hold"
)


@dataclass(frozen=True, kw_only=True)
class Deduplication(Composed):
    """Removes repeated records from each model's members before the base trains, keeping the first by index.

    What is there ten times is learned ten times as well, and leaks accordingly (Lee et al. 2022, "Deduplicating
    Training Data Makes Language Models Better"; Kandpal et al. 2022, "Deduplicating Training Data Mitigates Privacy
    Risks in Language Models").

    Exact duplicates agree in every byte of input and label, and in the person where the data name persons. Removing
    them is 1-stable: when a kept record leaves, its next copy takes its place, with the same content, so the contents
    that the base is trained on change by one record at most and the base's ε stays. (Were labels not compared, a copy
    with another label could take the place, which is a change of two.) By similarity one record may hold back several
    that differ, and no ε survives.

    How many were removed is as private as membership: `distinct_members` shows it to the caller, no statement does.

    Args:
        base: what trains on the records that are left.
        threshold: similarity of inputs, above 0 and at most 1, from which a record counts as a duplicate of one that
            was kept, whatever its label: the cosine of numbers, of texts the Jaccard similarity of their runs of 5
            tokens. None: exact duplicates only.

    Raises:
        ValueError: if the threshold is out of range.
    """

    threshold: Annotated[float, Field(gt=0, le=1), remedy("choose e.g. 0.95, or null for exact ones")] | None = None

    @property
    def strength(self) -> float | None:
        """The similarity of duplicates; that of the base where only exact ones are removed."""
        return self.base.strength if self.threshold is None else self.threshold

    def network(self, network: nn.Module) -> nn.Module:
        """The architecture that the base makes of it."""
        return self.base.network(network)

    def fit(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Fleet:
        """The base's training, on the members that are left without duplicates."""
        check_epochs(fitter)
        return self.base.fit(fitter.base, split, self.distinct_members(fitter.dataset, split, membership))

    def statement(self, fleet: Fleet) -> Statement:
        """The base's claim; no guarantee where similar records are removed, since one then decides over others."""
        claim = self.base.statement(fleet)
        if self.threshold is None or not claim.guarantee:
            return claim
        return Statement(guarantee=False, warnings=(SIMILARITY_WARNING,))

    def distinct_members(
        self, dataset: Dataset, split: Split, membership: Bool[ndarray, "models pool"]
    ) -> Bool[ndarray, "models pool"]:
        """The membership without duplicates, each model by itself: what is left is what the base trains on."""
        distinct = np.zeros_like(membership)
        contents = None if self.threshold is not None else first_alike(dataset, split)
        for row, left in zip(membership, distinct, strict=True):
            members = np.flatnonzero(row)
            if contents is None:
                assert self.threshold is not None
                left[members[unlike(_content(dataset, split.pool[members]), self.threshold)]] = True
            else:
                left[members[np.unique(contents[members], return_index=True)[1]]] = True
        return distinct


def _content(dataset: Dataset, records: Int64[ndarray, " some"]) -> Real[ndarray, "some ..."]:
    """Inputs, or the tokens of documents, each plus one: 0 is behind the last one, whatever their number."""
    return dataset.y[records] + 1 if dataset.positional else dataset.x[records]


def first_alike(dataset: Dataset, split: Split) -> Int64[ndarray, " pool"]:
    """For each pool record the position of the first with the same content."""
    persons = np.zeros(len(split.pool), dtype=np.int64) if split.persons is None else split.persons
    labels = np.column_stack([dataset.y[split.pool], persons])
    first: dict[bytes, int] = {}
    return np.array(
        [
            first.setdefault(hashlib.blake2b(dataset.x[record].tobytes() + label.tobytes()).digest(), position)
            for position, (record, label) in enumerate(zip(split.pool, labels, strict=True))
        ]
    )


def unlike(x: Real[ndarray, "records ..."], threshold: float) -> Int64[ndarray, " distinct"]:
    """The records that are kept if each, in order, goes that is too similar to one kept before it."""
    similarity = cosine(x) if np.issubdtype(x.dtype, np.floating) else jaccard(x)
    distinct = np.zeros(len(x), dtype=bool)
    for start in range(0, len(x), RECORDS_PER_BLOCK):
        block, before = np.arange(start, min(start + RECORDS_PER_BLOCK, len(x))), np.flatnonzero(distinct[:start])
        candidates = ~(similarity(block, before) >= threshold).any(axis=1)
        within = similarity(block, block) >= threshold
        for i in np.flatnonzero(candidates):
            distinct[start + i] = not (within[i, :i] & distinct[start : start + i]).any()
    return np.flatnonzero(distinct)
