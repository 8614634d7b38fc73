"""Scores of attacks on a subject, with the reasons why others could not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks import Attack, View
from palisade.evaluation.subjects.endpoint import BudgetSpentError
from palisade.evaluation.subjects.subject import Subject

SPENT = "the budget of queries is spent, raise it with budget=<queries>: answers so far are kept"


class AttackScores(NamedTuple):
    """Scores of attacks on one subject.

    Args:
        scores: by attack, (models, records).
        needs: by name, the threat model in words (`text`), the queries a record that it declares (`declared`) and
            those that it made (`measured`).
        skipped: by name, the reason why an attack did not run.
    """

    scores: Mapping[Attack, Float[np.ndarray, "models records"]]
    needs: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]


def score_all(subject: Subject, attacks: Iterable[Attack], view: View, models: int) -> AttackScores:
    """Runs every attack that the subject allows for.

    Args:
        subject: that is attacked.
        attacks: those that were chosen.
        view: what they see.
        models: number of targets; shadows of another run may follow them in the view.
    """
    scores: dict[Attack, Float[np.ndarray, "models records"]] = {}
    needs: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for attack in map(subject.suited, attacks):
        if (reason := subject.lacking(attack, view)) is not None:
            skipped[attack.name] = reason
            continue
        try:
            result, queries = attack.run(view)
        except BudgetSpentError:
            skipped[attack.name] = f"needs up to {attack.threat.queries} queries a record; {SPENT}"
            continue
        if _fewest_scored(result[:models], view.membership[:models]) < subject.fewest_scored:
            skipped[attack.name] = subject.too_few_scored
            continue
        scores[attack] = result[:models]
        needs[attack.name] = {
            "text": attack.threat.describe(), "declared": attack.threat.queries, "measured": queries,
        }  # fmt: skip
    return AttackScores(scores, needs, skipped)


def _fewest_scored(scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]) -> int:
    """Scored members or non-members in the attacked model that has fewest; an attack may leave models out."""
    scored = ~np.isnan(scores)
    attacked = scored.any(axis=1)
    counts = [(scored & side).sum(axis=1)[attacked] for side in (membership, ~membership)]
    return int(np.min(counts)) if attacked.any() else 0
