"""The unit of privacy, and the rows that one of them brings into a step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from palisade.data.secret import Secret


@runtime_checkable
class Units(Protocol):
    """The units that DP-SGD samples, clips and protects, each as one.

    Every unit brings the same number of rows into a step, whose gradients are averaged before clipping. Then whatever
    a unit consists of, it moves the sum by at most C.
    """

    @property
    def name(self) -> str:
        """The unit of the claim in words, such as `record`."""

    @property
    def augmentations(self) -> int:
        """Rows of each record that takes part, which random transforms make different."""

    @property
    def rows_per_unit(self) -> int:
        """Rows that a unit brings into a step, side by side."""

    def __len__(self) -> int: ...

    def rows(self, taken: Int64[np.ndarray, " taken"], model: int, step: int) -> Int64[np.ndarray, " rows"]:
        """Indices into the data set, those of one unit side by side."""


@dataclass(frozen=True, kw_only=True)
class SingleRecords:
    """Every record is a unit.

    Args:
        records: how many there are.
        augmentations: rows of each, which a data set with random transforms makes different (augmentation
            multiplicity: De et al. 2022, "Unlocking High-Accuracy Differentially Private Image Classification through
            Scale", section 3.2).
    """

    records: int
    augmentations: int = 1

    @property
    def name(self) -> str:
        """`record`: the claim holds for a single record."""
        return "record"

    @property
    def rows_per_unit(self) -> int:
        """Rows that a record brings into a step: its augmentations."""
        return self.augmentations

    def __len__(self) -> int:
        return self.records

    def rows(self, taken: Int64[np.ndarray, " taken"], model: int, step: int) -> Int64[np.ndarray, " rows"]:
        """Every record that was taken, as many times as it has augmentations."""
        return np.repeat(taken, self.augmentations)


class Groups:
    """All records of a person, a household, a device … are one unit, of which a step sees a bounded number.

    A group with more records than the bound takes part with that many of them, drawn anew in every step; one with
    fewer repeats them as evenly as possible (user-level sampling: Charles et al. 2024, "Fine-Tuning Large Language
    Models with User-Level Differential Privacy", section 3).

    Which records those are is a function of the secret, the model, the step and the group's own value: neighboring data
    sets, one of which lacks a group, take the same records of all others, and so does any number of processes.

    Args:
        groups: the group of every record, any values that can be compared.
        records_per_group: the bound, 1 or more.
        augmentations: rows of each record that takes part.
        secret: fixes which records take part.
        name: what a group is.
    """

    def __init__(
        self, groups: Any, *, records_per_group: int, secret: Secret, augmentations: int = 1, name: str = "group"
    ) -> None:
        distinct, group = np.unique(np.asarray(groups), return_inverse=True)
        self.count, self.records_per_group, self.augmentations = len(distinct), records_per_group, augmentations
        self.secret, self.name = secret, name
        self.digests = [_digest(value) for value in distinct.tolist()]
        order = np.argsort(group, kind="stable")
        self.members = np.split(order, np.searchsorted(group[order], np.arange(1, self.count)))

    @property
    def rows_per_unit(self) -> int:
        """Rows that a group brings into a step: augmentations of as many records as the bound allows."""
        return self.records_per_group * self.augmentations

    def __len__(self) -> int:
        return self.count

    def rows(self, taken: Int64[np.ndarray, " taken"], model: int, step: int) -> Int64[np.ndarray, " rows"]:
        """Records drawn from every group that was taken, each as many times as it has augmentations."""
        philox = np.random.Philox(key=0)
        draw, state = np.random.Generator(philox), philox.state
        chosen = []
        for group in taken:
            key = self.secret.digest("group", model, step, content=self.digests[group])
            state["state"]["key"] = np.frombuffer(key, dtype="<u8")
            philox.state = state  # as in a new generator, which would take several times as long
            chosen.append(np.resize(draw.permutation(self.members[group]), self.records_per_group))
        return np.repeat(np.array(chosen, dtype=np.int64).ravel(), self.augmentations)


def _digest(group: Any) -> bytes:
    """The name of a group by its value alone: integers are floats as soon as another group's value is one."""
    if isinstance(group, bool) or (isinstance(group, float) and group.is_integer()):
        group = int(group)
    return hashlib.blake2b(str(group).encode(errors="surrogatepass"), digest_size=16).digest()


def units_of(
    records: int, *, groups: Sequence[Any] | None, records_per_group: int, augmentations: int, secret: Secret
) -> Units:
    """The units of a data set: its records, or the groups that are named for each."""
    if groups is None:
        return SingleRecords(records=records, augmentations=augmentations)
    if len(groups) != records:
        raise ValueError(
            f"groups={len(groups)}: expected {records} values, one for each record; name the group of each"
        )
    return Groups(groups, records_per_group=records_per_group, augmentations=augmentations, secret=secret)
