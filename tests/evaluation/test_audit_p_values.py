"""p-values of records in question: exact where small, honest where nothing was used."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, permutation_test, rankdata

from palisade.evaluation.record_test import benjamini_hochberg, holm, of_all, p_values


def test_a_p_value_is_the_rank_among_nonmembers_and_ties_count_against_it():
    nonmembers = np.array([0.0, 1.0, 2.0, 2.0])
    np.testing.assert_allclose(p_values(np.array([3.0, 2.0, 1.5, -1.0]), nonmembers), [1 / 5, 3 / 5, 3 / 5, 1.0])


def test_p_values_of_unused_records_are_never_too_small():
    rng = np.random.default_rng(0)
    p = np.concatenate([p_values(*np.split(rng.normal(size=219).round(1), [20])) for _ in range(300)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 0.01


def test_corrections():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(holm(np.array([0.7, 0.8])), [1.0, 1.0])


def test_few_records_are_tested_exactly():
    rng = np.random.default_rng(1)
    scores, nonmembers = rng.normal(size=3) + 1, rng.normal(size=12)
    tested = of_all(scores, nonmembers)
    assert tested.how == "rank sum, exact"
    assert tested.p == pytest.approx(mannwhitneyu(scores, nonmembers, alternative="greater", method="exact").pvalue)
    tied, others = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    ranks = rankdata(np.concatenate([tied, others]))
    naive = permutation_test(
        (ranks[:3], ranks[3:]), lambda a, b: a.sum(), alternative="greater", n_resamples=np.inf, vectorized=False
    )
    assert of_all(tied, others).p == pytest.approx(naive.pvalue)


def test_one_record_alone_has_its_own_p_value():
    nonmembers = np.arange(99.0)
    assert of_all(np.array([95.0]), nonmembers).p == p_values(np.array([95.0]), nonmembers)[0] == 0.05


@pytest.mark.parametrize(("count", "how"), [(30, "permutations"), (80, "normal")])
def test_more_records_are_permuted_or_normal(count, how):
    rng = np.random.default_rng(2)
    scores, nonmembers = rng.normal(size=count) + 0.3, rng.normal(size=200)
    tested = of_all(scores, nonmembers)
    assert how in tested.how
    assert tested.p == pytest.approx(mannwhitneyu(scores, nonmembers, alternative="greater").pvalue, abs=0.01)


def test_the_test_of_all_records_holds_its_level():
    rng = np.random.default_rng(3)
    small = [of_all(rng.normal(size=3), rng.normal(size=9)).p for _ in range(300)]
    large = [of_all(rng.normal(size=60), rng.normal(size=90)).p for _ in range(300)]
    assert (np.array(small) <= 0.05).mean() <= 0.08 and (np.array(large) <= 0.05).mean() <= 0.08
