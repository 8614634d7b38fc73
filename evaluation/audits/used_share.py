"""Share of a file's records that the model was trained on, with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from palisade.evaluation.statistics.intervals import upper_limit

THRESHOLD_FPR = 0.05
"""False positive rate of the threshold where no member is known to choose it by."""


class UsedShare(NamedTuple):
    """Share of records that were used.

    Args:
        value: the estimate; None where nothing says how many used records the threshold finds.
        low: lower end of the interval.
        high: its upper end; 1 where there is none.
        known: number of members that it was debiased by; 0: none, so that only the lower end is known.
    """

    value: float | None
    low: float
    high: float
    known: int


def used_share(
    scores: Float[np.ndarray, "records"],
    nonmembers: Float[np.ndarray, "nonmembers"],
    members: Float[np.ndarray, "members"] | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> UsedShare:
    """Estimate (share accused − FPR)/(TPR − FPR) of the share, which undoes both errors of an accusation.

    Tong, Ye, Zarifzadeh & Shokri 2025, "How Much of My Dataset Did You Use? Quantitative Data Usage Inference in
    Machine Learning", section 4, with one threshold for all records. It is chosen on a random half of the known
    records, by TPR − FPR; FPR and TPR are counted on the other half. The interval holds whatever the scores, if known
    and questioned records are alike: Clopper–Pearson limits of the three shares at α/3 each, combined.

    Without known members TPR is not known. As it is at most 1, at least (share accused − FPR)/(1 − FPR) were used; no
    share above that can be ruled out, since a model may hide any number of its records.

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of at least 2 records that were not used.
        members: scores of at least 2 records that were used and are otherwise like those in question.
        alpha: one minus the confidence level.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    tuned_on, others = np.array_split(rng.permutation(nonmembers), 2)
    if members is None:
        threshold = np.sort(tuned_on)[-max(1, int(THRESHOLD_FPR * len(tuned_on)))]
        accused, false = (int((side > threshold).sum()) for side in (scores, others))
        fpr = float(upper_limit(false, len(others), alpha / 2))
        fewest = 1 - float(upper_limit(len(scores) - accused, len(scores), alpha / 2))
        return UsedShare(None, _share(fewest, fpr, 1.0, otherwise=0.0), 1.0, 0)
    known, found = np.array_split(rng.permutation(members), 2)
    candidates = np.unique(np.concatenate([known, tuned_on]))
    gain = [(known >= level).mean() - (tuned_on >= level).mean() for level in candidates]
    threshold = candidates[int(np.argmax(gain))]
    sides = (scores, others, found)
    counts = [int((side >= threshold).sum()) for side in sides]
    low = [1 - float(upper_limit(len(s) - n, len(s), alpha / 6)) for s, n in zip(sides, counts, strict=True)]
    high = [float(upper_limit(n, len(s), alpha / 6)) for s, n in zip(sides, counts, strict=True)]
    shares = [n / len(s) for s, n in zip(sides, counts, strict=True)]
    value = _share(*shares, otherwise=0.0) if shares[2] > shares[1] else None
    least, most = _share(low[0], high[1], high[2], otherwise=0.0), _share(high[0], low[1], low[2], otherwise=1.0)
    return UsedShare(value, least, most, len(members))


def _share(accused: float, fpr: float, tpr: float, *, otherwise: float) -> float:
    """Share between 0 and 1; `otherwise` where accusations tell nothing."""
    return float(np.clip((accused - fpr) / (tpr - fpr), 0.0, 1.0)) if tpr > fpr else otherwise
