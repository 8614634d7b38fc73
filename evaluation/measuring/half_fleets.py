"""Halves of a fleet, attacked on their own: how far another fleet would lead to other exposures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from palisade.attacks import Attack, View
from palisade.attacks.parts.view import WHITE_BOX
from palisade.evaluation.measuring.exposure import calls

LEAST = 8
"""Models from which on either half has enough shadows to be attacked like the whole."""
ASSUMED = 2.0
"""Over-dispersion of smaller fleets, which cannot be measured: about that of 8 to 16 simulated models."""
ANSWERS = ("logits", "probabilities", "predictions")
BY_MODEL = (
    "membership", "groups", "unguarded_logits", *ANSWERS, *(f"population_{answer}" for answer in ANSWERS), *WHITE_BOX,
)  # fmt: skip
"""Fields of a view with one entry a model."""


def over_dispersion(attack: Attack, scores: Float[np.ndarray, "models records"], seen: View) -> float:
    """Variance over fleets of the share of models in which a record is found, over the binomial variance; ≥ 1.

    The targets of a fleet share their shadows, so that what they find is found together. Two halves share none: the
    squared difference of a record's shares in both, over all records, is compared with what independent targets would
    give. Twice the models halve both variances, hence the ratio of halves is also that of the whole.

    Args:
        attack: that gave the scores.
        scores: of the whole fleet.
        seen: what they came from.

    Returns:
        The ratio, at least 1; `ASSUMED` below 8 models, or where the halves find nothing that could differ.
    """
    differences, expected = 0.0, 0.0
    for first, second in _halves(seen):
        counted = []
        for part in (first, second):
            # Without shadows a target's scores are its own, whoever stands beside it.
            own = scores[part] if attack.threat.shadows == "none" else _rescored(attack, part_of(seen, part))
            if own is None:
                return ASSUMED
            counted.append(calls(own, seen.membership[part]))
        (models_a, found_a), (models_b, found_b) = counted
        known = (models_a > 0) & (models_b > 0)
        a, b, hits_a, hits_b = (count[known] for count in (models_a, models_b, found_a, found_b))
        models = a + b
        share = (hits_a + hits_b) / models
        variance = share * (1 - share) * models / (models - 1)  # unbiased where targets are independent
        differences += float(((hits_a / a - hits_b / b) ** 2).sum())
        expected += float((variance * (1 / a + 1 / b)).sum())
    return max(1.0, differences / expected) if expected > 0 else ASSUMED


def part_of(seen: View, models: slice) -> View:
    """The view of some models of a fleet alone.

    Args:
        seen: of the whole fleet.
        models: which of them; a slice, since answers may be memory-mapped.
    """
    start, _, step = models.indices(seen.models)
    parts: dict[str, Any] = {name: getattr(seen, name)[models] for name in BY_MODEL if getattr(seen, name) is not None}
    # Hidden layers are those of the fleet's first models, whichever of them are in this part, and so are its targets.
    parts |= {"shadow_features": None, "further_shadows": None}
    for name in ("query", "query_label"):
        if (ask := getattr(seen, name)) is not None:
            parts[name] = lambda model, x, ask=ask: ask(start + step * model, x)
    return replace(seen, **parts)


def _halves(seen: View) -> Iterator[tuple[slice, slice]]:
    """Pairs of equal halves; twins of complementary membership stay together."""
    if seen.models < LEAST:
        return
    twins = seen.groups is not None and len(np.unique(seen.groups)) < seen.models
    half = seen.models // 4 * 2 if twins else seen.models // 2
    yield slice(0, half), slice(half, 2 * half)
    if not twins:
        yield slice(0, 2 * half, 2), slice(1, 2 * half, 2)


def _rescored(attack: Attack, part: View) -> Float[np.ndarray, "models records"] | None:
    return None if attack.missing(part) is not None else attack.score(part)
