"""A shadow model whose answers were saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks import Attack, Correctness, View
from palisade.attacks.parts.thresholds import Threshold, class_thresholds
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.intervals import Called, Estimate
from palisade.evaluation.statistics.roc import Roc
from palisade.evaluation.subjects.answers import AnsweredRecords, shared_persons, shared_rows

SHADOW_SIDES = ("shadow_members", "shadow_nonmembers")
"""Settings that name the files: records that the shadow was trained on, and records that it was not."""


def shadow_sides(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings of shadow files that are set: both or neither.

    Raises:
        ValueError: if one lacks the other, or the audit takes none.
    """
    chosen = [key for key in SHADOW_SIDES if settings.get(key)]
    if chosen and kind != "outputs":
        raise ValueError(f"{chosen[0]} holds saved answers, which audit={kind} does not take; use audit=outputs")
    if len(chosen) == 1:
        (lacking,) = {*SHADOW_SIDES} - {*chosen}
        raise ValueError(f"{chosen[0]} is given without {lacking}; thresholds take both, add {lacking}=<file.npz>")
    return chosen


def check_apart(shadow: Sequence[AnsweredRecords], audited: Sequence[AnsweredRecords]) -> None:
    """Raises ValueError if a record or a person of the shadow's is on both of its sides, or is audited too."""
    for one, other in (*combinations(shadow, 2), *product(audited, shadow)):
        if count := shared_rows(one, other):
            raise ValueError(f"{one.name} and {other.name} share {count} records; remove them from {other.name}")
        if count := shared_persons(one, other):
            raise ValueError(
                f"{one.name} and {other.name} hold records of {count} same persons; remove theirs from {other.name}"
            )


def margins(attack: Attack, view: View, shadow: View) -> Float[np.ndarray, "records"] | None:
    """Each record's signal less the threshold of its class; from 0 on it is called a member.

    A threshold for each class, the one with the best balanced accuracy on the shadow's records; a class of which it
    lacks members or non-members takes the one of all classes together (Song & Mittal 2021, section 3.2). The gap attack
    has a threshold of its own: who is classified correctly is called a member (section 3.1).

    Args:
        attack: any; with one threshold for all classes where it is a threshold.
        view: of the audited model.
        shadow: of the shadow model about other records, answers at the same level.

    Returns:
        None for an attack that has no threshold to learn.
    """
    if isinstance(attack, Correctness):
        return attack.score(view)[0] - 1.0
    if not isinstance(attack, Threshold):
        return None
    own, known = attack.score(view)[0], attack.score(shadow)[0]
    records = len(own)
    signal = np.full((2, records + len(known)), np.nan)  # neither model answered about the other's records
    signal[0, :records], signal[1, records:] = own, known
    membership = np.concatenate([view.membership[0], shadow.membership[0]])
    thresholds = class_thresholds(
        signal,
        np.concatenate([view.labels, shadow.labels]),
        np.stack([membership, membership]),
        ~np.eye(2, dtype=bool),
    )
    return own - thresholds[0, :records]


def accuracy_of(
    margin: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None,
    replicates: int,
) -> Estimate:
    """Balanced accuracy at thresholds from other data, given the shadow: exact, or over persons who have several.

    Args:
        margin: of `margins`.
        members: which records the audited model was trained on.
        persons: whose record each one is, where somebody has several; None: records are independent.
        replicates: of the bootstrap over persons.
    """
    if persons is None:
        return Called.at(margin, members, 0.0).balanced_accuracy()
    called = (margin >= 0).astype(np.float64)  # of calls, the AUC is the balanced accuracy
    drawn = Bootstrap(replicates=replicates, persons=persons)
    return fleet_metrics(called[None], members[None], {"accuracy": Roc.auc}, drawn).estimates["accuracy"]
