"""Was a record used? Conformal p-values against non-members, corrected for many, and one for all together."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import false_discovery_control, mannwhitneyu, rankdata

PERMUTATIONS = 9_999
SMALL = 50
"""Records on a side up to which the rank sum is permuted; beyond, it is normal."""

Values = Float[np.ndarray, "records"]


class FileTest(NamedTuple):
    """A test of all records together.

    Args:
        p: its p-value.
        how: in a few words.
    """

    p: float
    how: str


def p_values(scores: Values, nonmembers: Float[np.ndarray, "nonmembers"]) -> Values:
    """(1 + non-members that score at least as high) / (non-members + 1), a conformal p-value for each record.

    Of records that were not used and are otherwise like the non-members, at most a share p gets a value up to p,
    whatever the model and the score. Ties count against the accusation. (Bates et al. 2023, "Testing for Outliers with
    Conformal p-values", section 1.)

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of records that were not used.
    """
    higher = len(nonmembers) - np.searchsorted(np.sort(nonmembers), scores, side="left")
    return (1 + higher) / (len(nonmembers) + 1)


def benjamini_hochberg(p: Values) -> Values:
    """Adjusted p-values: of the records with a value up to α, a share of at most α is expected to be named wrongly.

    It holds for conformal p-values though all of them share the non-members (Bates et al. 2023, theorem 2).
    """
    adjusted: Values = false_discovery_control(p, method="bh")
    return adjusted


def holm(p: Values) -> Values:
    """Adjusted p-values: with probability 1 − α, no record with a value up to α is named wrongly (Holm 1979)."""
    rising = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(p[rising] * np.arange(len(p), 0, -1)), 1.0)
    adjusted = np.empty_like(steps)
    adjusted[rising] = steps
    return adjusted


def of_all(scores: Values, nonmembers: Float[np.ndarray, "nonmembers"], seed: int = 0) -> FileTest:
    """One p-value for all records: do they rank above the non-members (Wilcoxon 1945; Mann & Whitney 1947)?

    Where all records were used, each a little better fitted than it would be otherwise, this sees what no single record
    shows (Maini, Yaghini & Papernot 2021, "Dataset Inference"). It takes the records as exchangeable one by one: many
    rows of one person make it too sure.

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of records that were not used.
        seed: of the permutations, where there are too many to try all.
    """
    m, n = len(scores), len(nonmembers)
    if min(m, n) > SMALL:
        return FileTest(float(mannwhitneyu(scores, nonmembers, alternative="greater").pvalue), "rank sum, normal")
    ranks = np.rint(2 * rankdata(np.concatenate([scores, nonmembers]))).astype(np.int64)  # ties have halves
    own = ranks[:m].sum()
    if comb(m + n, m) <= PERMUTATIONS:
        every = np.array([sum(chosen) for chosen in combinations(ranks.tolist(), m)])
        return FileTest(float((every >= own).mean()), "rank sum, exact")
    rng = np.random.default_rng(seed)
    drawn = [ranks[rng.choice(m + n, m, replace=False, shuffle=False)].sum() for _ in range(PERMUTATIONS)]
    found = (1 + int((np.array(drawn) >= own).sum())) / (1 + PERMUTATIONS)
    return FileTest(found, f"rank sum, {PERMUTATIONS:,} permutations")
