"""Canaries: records made to be vulnerable, of which alone it is random who is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped
from pydantic import Field

from palisade.data.split import Split
from palisade.fields import CheckedFields, Count

CHANGED_FEATURES_SHARE = 0.01
"""Share of a near-duplicate's features that are another record's."""


class Material(NamedTuple):
    """Material that canaries are made from.

    Args:
        x: inputs of all records, flattened.
        y: their labels.
        classes: how many there are.
        pool: the records that features may be taken from.
        bases: for every canary a pool record, no two the same.
        others: for every canary another pool record than its base.
        rng: of the public seed.
    """

    x: Shaped[np.ndarray, "records features"]
    y: Int64[np.ndarray, " records"]
    classes: int
    pool: Int64[np.ndarray, " pool"]
    bases: Int64[np.ndarray, " canaries"]
    others: Int64[np.ndarray, " canaries"]
    rng: np.random.Generator


CanaryRecords = tuple[Shaped[np.ndarray, "canaries features"], Int64[np.ndarray, " canaries"]]


def clean(material: Material) -> CanaryRecords:
    """Ordinary records."""
    return material.x[material.bases], material.y[material.bases]


def label_noise(material: Material) -> CanaryRecords:
    """Records with a wrong label, each of the other classes being as likely: what is not memorized is not fitted."""
    return material.x[material.bases], _wrong(material)


def ood(material: Material) -> CanaryRecords:
    """Out of distribution: every feature is that of a record of its own, the label is any."""
    features = material.x.shape[1]
    donors = material.rng.choice(material.pool, size=(len(material.bases), features))
    return material.x[donors, np.arange(features)], material.rng.integers(material.classes, size=len(material.bases))


def near_duplicate(material: Material) -> CanaryRecords:
    """Copies of records that stay, a few features being another record's, with a wrong label."""
    x = material.x[material.bases]
    features = x.shape[1]
    changed = max(1, round(CHANGED_FEATURES_SHARE * features))
    for row, other in zip(x, material.others, strict=True):
        places = material.rng.choice(features, size=changed, replace=False)
        row[places] = material.x[other, places]
    return x, _wrong(material)


def blank(material: Material) -> CanaryRecords:
    """No record at all: random signs, as long as records are on average, or random words; the label is any.

    Such inputs are nearly orthogonal to all others, and so are their gradients: no other record moves the weights as
    one of these does, and what training did with it shows (Nasr et al. 2023, "Tight Auditing of Differentially Private
    Machine Learning", section 4).
    """
    shape = len(material.bases), material.x.shape[1]
    pool = material.x[material.pool]
    if np.issubdtype(pool.dtype, np.integer):
        x = material.rng.integers(pool.min(), pool.max() + 1, size=shape)
    else:
        x = np.sqrt(np.mean(np.square(pool, dtype=np.float64))) * material.rng.choice((-1, 1), size=shape)
    return x.astype(pool.dtype), material.rng.integers(material.classes, size=len(material.bases))


def _wrong(material: Material) -> Int64[np.ndarray, " canaries"]:
    shift = material.rng.integers(1, material.classes, size=len(material.bases))
    return (material.y[material.bases] + shift) % material.classes


class Kind(NamedTuple):
    """Kind of canary: the function that makes it, and if it replaces its base record, which would work against it."""

    make: Callable[[Material], CanaryRecords]
    replaces_base: bool


CANARY_KINDS: Mapping[str, Kind] = {
    "clean": Kind(clean, replaces_base=True),
    "label_noise": Kind(label_noise, replaces_base=True),
    "ood": Kind(ood, replaces_base=False),
    "near_duplicate": Kind(near_duplicate, replaces_base=False),
    "blank": Kind(blank, replaces_base=False),
}


@dataclass(frozen=True, kw_only=True)
class Canaries(CheckedFields):
    """Canaries in a pool whose other records every model is trained on.

    A mean over ordinary records hides the few that a model exposes. Attacks on canaries measure the leakage about the
    most exposed records, at the full size of the data (Aerni et al. 2024, "Evaluations of Machine Learning Privacy
    Defenses are Misleading"), and as their memberships are independent coins, they bound ε from below with a single
    model (Steinke et al. 2023, "Privacy Auditing with One (1) Training Run").

    Args:
        kind: `clean`: ordinary records. `label_noise`: records with a wrong label. Both take the place of their base.
            `ood`: features of many records, any label. `near_duplicate`: copies with 1 % of the features changed and
            a wrong label, beside the records they resemble. `blank`: random signs, any label. Among documents
            (`data.document_canaries`) `secret`: a code of some digits. `new_token`: a token of its own.
        count: how many, 1 to the size of the pool.
        digits: of a secret, 1 to 6.
        copies: equal documents of a secret; secrets take these numbers in turn.

    Raises:
        ValueError: for an unknown kind or a count that is none.
    """

    kind: Literal["clean", "label_noise", "ood", "near_duplicate", "blank", "secret", "new_token"]
    count: Count = 500
    digits: Annotated[int, Field(ge=1, le=6)] = 3
    copies: Annotated[Sequence[Count], Field(min_length=1)] = (1,)

    def plant(
        self,
        x: Shaped[np.ndarray, "records *shape"],
        y: Int64[np.ndarray, " records"],
        split: Split,
        *,
        classes: int,
        seed: int,
    ) -> tuple[Shaped[np.ndarray, "all *shape"], Int64[np.ndarray, " all"], Split]:
        """Inputs, labels and roles with canaries behind all other records, chosen by the public seed.

        Kinds that rest on base records take the same ones with the same seed. Every canary is a person of its own.
        The inputs are copied: memory-mapped ones are then in memory.

        Args:
            x: inputs of all records, of any type.
            y: their labels, 0..C−1.
            split: their roles.
            classes: C.
            seed: public; which records are canaries is no secret, their membership is.

        Raises:
            ValueError: if the pool has fewer records than `count`, or the kind is one of documents.
        """
        if self.kind not in CANARY_KINDS:
            raise ValueError(
                f"canary.kind={self.kind}: expected one of {', '.join(CANARY_KINDS)}, as records are no documents;"
                " choose one"
            )
        if self.count > len(split.pool):
            raise ValueError(
                f"canary.count={self.count}: expected at most {len(split.pool)}, the records of the pool; choose fewer"
            )
        rng, kind = np.random.default_rng([seed, *b"canaries"]), CANARY_KINDS[self.kind]
        order = rng.permutation(split.pool)
        bases, others = order[: self.count], np.roll(order, 1)[: self.count]
        rows, labels = kind.make(Material(x.reshape(len(x), -1), y, classes, split.pool, bases, others, rng))
        canaries = np.arange(len(x), len(x) + self.count)
        fixed = np.setdiff1d(split.pool, bases) if kind.replaces_base else split.pool
        persons = split.record_persons
        if persons is not None:
            persons = np.append(persons, persons.max() + 1 + np.arange(self.count))
        planted = replace(split, pool=np.append(fixed, canaries), canaries=canaries, record_persons=persons)
        return np.concatenate([x, rows.reshape(-1, *x.shape[1:])]), np.append(y, labels), planted
