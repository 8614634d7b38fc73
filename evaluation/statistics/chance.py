"""Null distribution of the TPR at a low FPR: its mean (the chance level), exactly, and its quantiles by redraws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64

NULL_REPLICATES = 200
NULL_LEVEL = 0.95
AT_ONCE = 2**25
"""Redraws of a record that are worked on together, 128 MB."""
MODELS_AT_ONCE = 16
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
) -> Int32[np.ndarray, "replicates records"]:
    """Memberships drawn anew: for each record another one whose memberships it gets, in all models at once.

    Attacks that know nothing do not know which record had which memberships. Exchanging these draws them anew as they
    were drawn: coins keep their share, complementary models stay complementary, a fixed split stays one.

    Args:
        records: how many there are.
        persons: of each record; those of one person share a fate, and get that of another person.
        replicates: number of redraws.
        seed: public; the same seed gives the same redraws.
    """
    return np.concatenate(list(redraws_in_blocks(records, persons, replicates=replicates, seed=seed)))


def redraws_in_blocks(
    records: int, persons: Int[np.ndarray, "records"] | None = None, *, replicates: int = NULL_REPLICATES, seed: int = 0
) -> Iterator[Int32[np.ndarray, "block records"]]:
    """`redraws`, as many at a time as memory should hold."""
    rng = np.random.default_rng([seed, *b"chance"])
    person = np.arange(records) if persons is None else np.unique(persons, return_inverse=True)[1]
    first = np.unique(person, return_index=True)[1].astype(np.int32)
    at_once = max(1, AT_ONCE // max(records, 1))
    for start in range(0, replicates, at_once):
        exchanged = rng.permuted(np.tile(first, (min(at_once, replicates - start), 1)), axis=1)
        yield exchanged if persons is None else exchanged[:, person]


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
    outside = _nonmembers(scores, membership, exchanged)
    values = np.array([_null_tpr(*row, fpr, exchanged) for row in zip(scores, membership, outside, strict=True)])
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


def _nonmembers(
    scores: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models pool"],
    exchanged: Int[np.ndarray, "replicates records"],
) -> Int64[np.ndarray, "models replicates"]:
    """Number of non-members among the scored records of each model."""
    # How often each record's memberships are taken, whatever is scored: mostly everything is.
    number = np.float32 if exchanged.shape[1] < 2**24 else np.float64  # in which their sums are exact
    taken = np.empty((membership.shape[1], len(exchanged)), dtype=number)
    for count, own in zip(taken.T, exchanged, strict=True):
        count[:] = np.bincount(own, minlength=len(taken))
    counts = np.empty((len(scores), len(exchanged)), dtype=np.int64)
    for start in range(0, len(scores), MODELS_AT_ONCE):
        block = slice(start, start + MODELS_AT_ONCE)
        counts[block] = np.rint((~membership[block]).astype(number) @ taken)
    for count, row, members in zip(counts, scores, membership, strict=True):
        scored = ~np.isnan(row)
        few = scored if 2 * scored.sum() < len(row) else ~scored
        of_few = (~members)[exchanged[:, few]].sum(axis=1)
        count[:] = of_few if few is scored else count - of_few
    return counts


def _null_tpr(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "pool"],
    outside: Int64[np.ndarray, "replicates"],
    fpr: float,
    exchanged: Int[np.ndarray, "replicates records"],
) -> Float[np.ndarray, "replicates"]:
    """Null distribution of one model's TPR at FPR ≤ f, of whose scored records so many are outside in each redraw."""
    scored = int((~np.isnan(scores)).sum())
    allowed = np.floor(fpr * outside + FLOOR_SLACK).astype(np.int64)
    # So many of the highest scores hold one non-member too many, most likely; the others need no look.
    share = max(float(outside.min()), 1.0) / max(scored, 1)
    top = min(scored, int(2 * (allowed.max(initial=0) + 1) / share) + 16)
    while True:
        order = _highest(scores, top)
        false_positives = np.cumsum((~members)[exchanged[:, order]], axis=1, dtype=np.int32)
        within = (false_positives <= allowed[:, None]).sum(axis=1)
        if top == scored or within.max(initial=0) < top:
            break
        top = min(scored, 2 * top)
    falling = scores[order]
    # Ties are called together or not.
    ends = np.append(True, np.append(falling[1:] != falling[:-1], top == scored)[: len(order)])
    called = np.maximum.accumulate(np.where(ends, np.arange(len(order) + 1), 0))[within]
    false = np.where(
        called > 0, np.take_along_axis(false_positives, np.maximum(called - 1, 0)[:, None], axis=1)[:, 0], 0
    )
    inside = scored - outside
    resolved = (allowed >= 1) & (inside > 0)
    tpr: np.ndarray = np.where(resolved, (called - false) / np.maximum(inside, 1), np.nan)
    return tpr


def _highest(scores: Float[np.ndarray, "records"], count: int) -> Int[np.ndarray, "count"]:
    """Places of the highest scores in falling order."""
    rising = np.negative(np.asarray(scores, dtype=np.float64))  # NaN comes last
    places = np.argpartition(rising, count)[:count] if count < len(rising) else np.arange(len(rising))
    return places[np.argsort(rising[places])][:count]
