"""What guessing finds, as rows: its mean, and the most that luck explains, of attacks and of groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from attacks import Attack, View
from evaluation.findings import FPRS, Row, chance_at, null_at
from evaluation.statistics.chance import chance_level, explained_by_luck, null_tprs, redraws

Scores = Float[np.ndarray, "models records"]


def luck_of_attacks(scores: Mapping[Attack, Scores], seen: View, seed: int) -> Iterator[Row]:
    """Of each attack; the most that luck explains allows for all attacks, since the strongest is looked at.

    Args:
        scores: of the attacks that ran.
        seen: what they came from.
        seed: public.
    """
    named = [{"attack": attack.name, "access": attack.threat.access} for attack in scores]
    everybody = np.ones(seen.records, dtype=bool)
    yield from _rows([(own, everybody) for own in scores.values()], named, seen, seed)


def luck_of_groups(
    attack: Attack, scores: Scores, seen: View, seed: int, groups: Iterable[tuple[str, Bool[np.ndarray, "records"]]]
) -> Iterator[Row]:
    """Of one attack on the records of each group; allows for all groups, since those that leak most are looked at.

    Args:
        attack: that gave the scores.
        scores: of all records.
        seen: what they came from.
        seed: public.
        groups: such as `class=3`, and which records belong to it.
    """
    parts = list(groups)
    named = [{"attack": attack.name, "access": attack.threat.access, "group": group} for group, _ in parts]
    yield from _rows([(scores, inside) for _, inside in parts], named, seen, seed)


def _rows(
    choices: Sequence[tuple[Scores, Bool[np.ndarray, "records"]]], named: Sequence[Mapping[str, Any]], seen: View,
    seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Of each choice: scores, and the records that count."""
    exchanged = redraws(seen.records, seen.persons, seed=seed)
    for fpr in FPRS:
        levels = [
            chance_level((~seen.membership & ~np.isnan(scores))[:, inside].sum(axis=1), fpr)
            for scores, inside in choices
        ]
        resolved = [k for k, level in enumerate(levels) if not np.isnan(level)]
        most = dict.fromkeys(range(len(choices)), float("nan"))
        if resolved:
            chosen = [choices[k] for k in resolved]
            replicated = [
                null_tprs(scores[:, inside], seen.membership, fpr, exchanged[:, inside]) for scores, inside in chosen
            ]
            # Ties keep an attack below the level; what is claimed beyond luck must lie above it all the same.
            explained = explained_by_luck(np.column_stack(replicated)).tolist()
            most |= {k: max(value, levels[k]) for k, value in zip(resolved, explained, strict=True)}
        for k, names in enumerate(named):
            scores, inside = choices[k]
            scored = ~np.isnan(scores[:, inside])
            members = int((seen.membership[:, inside] & scored).sum())
            counts: dict[str, Any] = {"members": members, "nonmembers": int(scored.sum()) - members}
            for metric, value in ((chance_at(fpr), levels[k]), (null_at(fpr), most[k])):
                yield Row(metric=metric, value=None if np.isnan(value) else float(value), **counts, **names)
