"""Null distribution of the TPR at a low FPR: its mean (the chance level), exactly, and its quantiles by redraws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

NULL_REPLICATES = 200
NULL_LEVEL = 0.95
FLOOR_SLACK = 1e-9
"""Added to f·n before it is rounded down, far above rounding: 0.07 · 100 is meant to be 7."""


def chance_level(nonmembers: Sequence[int] | Int[np.ndarray, "models"], fpr: float) -> float:
    """Mean over models of the largest TPR at FPR ≤ f that an attack without any knowledge reaches.

    Its threshold may fall as far as the (⌊fn⌋ + 1)-th non-member, and a member lies above that with probability
    (⌊fn⌋ + 1)/(n + 1): more than f, since the threshold is chosen on the very records. Exact for scores without ties,
    an upper bound with them.

    Args:
        nonmembers: n, the scored non-members of each model.
        fpr: f, in [0, 1]; below 1/n a model resolves nothing, and the level is NaN.
    """
    n = np.asarray(nonmembers, dtype=np.float64)
    false_positives = np.floor(fpr * n + FLOOR_SLACK)
    return float(np.where(false_positives >= 1, np.minimum((false_positives + 1) / (n + 1), 1.0), np.nan).mean())


def redraws(
    records: int, persons: Int[np.ndarray, "records"] | None = None, *, replicates: int = NULL_REPLICATES, seed: int = 0
) -> Int[np.ndarray, "replicates records"]:
    """Memberships drawn anew: for each record another one whose memberships it gets, in all models at once.

    Attacks that know nothing do not know which record had which memberships. Exchanging these draws them anew as they
    were drawn: coins keep their share, complementary models stay complementary, a fixed split stays one.

    Args:
        records: how many there are.
        persons: of each record; those of one person share a fate, and get that of another person.
        replicates: number of redraws.
        seed: public; the same seed gives the same redraws.
    """
    rng = np.random.default_rng([seed, *b"chance"])
    person = np.arange(records) if persons is None else np.unique(persons, return_inverse=True)[1]
    first = np.unique(person, return_index=True)[1]
    exchanged = rng.permuted(np.tile(first, (replicates, 1)), axis=1)
    drawn: np.ndarray = exchanged[:, person]
    return drawn


def null_tprs(
    scores: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models pool"],
    fpr: float,
    exchanged: Int[np.ndarray, "replicates records"],
) -> Float[np.ndarray, "replicates"]:
    """Null distribution of the fleet's mean TPR at FPR ≤ f: the same scores, with memberships drawn anew.

    Args:
        scores: higher = more likely a member, none from the target's own membership; NaN is left out. Of all records,
            or of those of a group.
        membership: which model was trained on which of all records.
        fpr: f, in [0, 1].
        exchanged: columns of `redraws` for the scored records; the same for several attacks show which wins by luck.

    Returns:
        A mean over the models that resolve f; NaN where none does.
    """
    values = np.array([_null_tpr(*row, fpr, exchanged) for row in zip(scores, membership, strict=True)])
    resolved = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(resolved, values, 0.0).sum(axis=0) / resolved.sum(axis=0)
    return means


def null_quantiles(
    replicated: Float[np.ndarray, "replicates choices"], level: float = NULL_LEVEL
) -> Float[np.ndarray, "choices"]:
    """Quantiles of the null distribution for several attacks or groups, corrected for choosing the largest of them.

    Whoever reads the largest of several values must allow for the largest by luck. They are compared by how many
    standard deviations they lie above their means, so that a small group does not set the bar of a large one
    (Westfall & Young 1993, section 2.6). Of a single one it is the quantile.

    Args:
        replicated: what each reaches in each redraw, by `null_tprs`; NaN where it is not resolved.
        level: of all choices together.
    """
    known = ~np.isnan(replicated)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, replicated, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (replicated - mean) ** 2, 0.0).sum(axis=0) / count)
    beyond = np.where(known & (spread > 0), (replicated - mean) / np.where(spread > 0, spread, 1.0), -np.inf)
    largest = beyond.max(axis=1, initial=-np.inf)
    factor = max(float(np.quantile(largest, level, method="higher")), 0.0)  # −∞ where nothing varies
    most: np.ndarray = np.where(known.any(axis=0), mean + factor * spread, np.nan)
    return most


def _null_tpr(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "pool"],
    fpr: float,
    exchanged: Int[np.ndarray, "replicates records"],
) -> Float[np.ndarray, "replicates"]:
    """Null distribution of one model's TPR at FPR ≤ f."""
    scored = np.flatnonzero(~np.isnan(scores))
    order = scored[np.argsort(-scores[scored], kind="stable")]
    falling = scores[order]
    ends = np.append(True, np.append(falling[1:] != falling[:-1], True)[: len(falling)])
    reached = np.maximum.accumulate(np.where(ends, np.arange(len(order) + 1), 0))  # ties are called together or not
    nonmember = ~members
    if len(order) == len(members) and len(np.unique(exchanged[0])) == len(members):
        outside = np.full(len(exchanged), int(nonmember.sum()))  # a permutation leaves their number alone
    else:
        outside = nonmember[exchanged[:, order]].sum(axis=1)
    allowed = np.floor(fpr * outside + FLOOR_SLACK).astype(np.int64)
    # So many of the highest scores hold one non-member too many, most likely; the others need no look.
    share = max(float(outside.min(initial=0)), 1.0) / max(len(order), 1)
    top = min(len(order), int(2 * (allowed.max(initial=0) + 1) / share) + 16)
    while True:
        false_positives = np.cumsum(nonmember[exchanged[:, order[:top]]], axis=1, dtype=np.int32)
        within = (false_positives <= allowed[:, None]).sum(axis=1)
        if top == len(order) or within.max(initial=0) < top:
            break
        top = min(len(order), 2 * top)
    called = reached[within]
    false = np.where(
        called > 0, np.take_along_axis(false_positives, np.maximum(called - 1, 0)[:, None], axis=1)[:, 0], 0
    )
    inside = len(order) - outside
    resolved = (allowed >= 1) & (inside > 0)
    tpr: np.ndarray = np.where(resolved, (called - false) / np.maximum(inside, 1), np.nan)
    return tpr
