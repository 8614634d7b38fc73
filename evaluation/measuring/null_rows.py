"""Null distribution of the TPR at a low FPR as rows: its mean (the chance level) and its 95 % quantile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks import Attack, View
from palisade.evaluation.measuring.leakage import targets_of
from palisade.evaluation.result import FPRS, Row, chance_at, null_at
from palisade.evaluation.statistics.chance import chance_level, null_quantiles, null_tprs, redraws

Scores = Float[np.ndarray, "models records"]


def null_rows(scores: Mapping[Attack, Scores], seen: View, seed: int) -> Iterator[Row]:
    """Chance level and null quantile of each attack; the quantile is corrected for choosing the strongest of them.

    Args:
        scores: of the attacks that ran.
        seen: what they came from.
        seed: public.
    """
    named = [{"attack": attack.name, "access": attack.threat.access} for attack in scores]
    everybody = np.ones(seen.records, dtype=bool)
    yield from _rows([(own, everybody) for own in scores.values()], named, seen, seed)


def null_rows_of_groups(
    attack: Attack, scores: Scores, seen: View, seed: int, groups: Iterable[tuple[str, Bool[np.ndarray, "records"]]]
) -> Iterator[Row]:
    """Chance level and null quantile of one attack in each group of records, corrected for choosing among the groups.

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
    """Rows of several attacks or groups, of which the one that leaks most is looked at.

    Args:
        choices: of each the scores, and which records count; models that were no target take no part.
        named: the fields of its rows.
        seen: where the scores come from.
        seed: public.
    """
    exchanged = redraws(seen.records, seen.persons, seed=seed)
    attacked = [targets_of(scores) for scores, _ in choices]
    for fpr in FPRS:
        levels = [
            chance_level((~seen.membership & ~np.isnan(scores))[targets][:, inside].sum(axis=1), fpr)
            for (scores, inside), targets in zip(choices, attacked, strict=True)
        ]
        resolved = [k for k, level in enumerate(levels) if not np.isnan(level)]
        quantiles = dict.fromkeys(range(len(choices)), float("nan"))
        if resolved:
            chosen = [(*choices[k], attacked[k]) for k in resolved]
            replicated = [
                null_tprs(scores[targets][:, inside], seen.membership[targets], fpr, exchanged[:, inside])
                for scores, inside, targets in chosen
            ]
            # Ties keep an attack below the level; a verdict of leakage must lie above it all the same.
            corrected = null_quantiles(np.column_stack(replicated)).tolist()
            quantiles |= {k: max(value, levels[k]) for k, value in zip(resolved, corrected, strict=True)}
        for k, names in enumerate(named):
            scores, inside = choices[k]
            scored = ~np.isnan(scores[:, inside])
            members = int((seen.membership[:, inside] & scored).sum())
            counts: dict[str, Any] = {"members": members, "nonmembers": int(scored.sum()) - members}
            for metric, value in ((chance_at(fpr), levels[k]), (null_at(fpr), quantiles[k])):
                yield Row(metric=metric, value=None if np.isnan(value) else float(value), **counts, **names)
