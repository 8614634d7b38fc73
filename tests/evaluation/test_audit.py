import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

from palisade.evaluation import audit_scores
from palisade.evaluation.epsilon_audit import REVERSED_SCORES, Guesses, guess, held_out_calls
from palisade.evaluation.statistics.epsilon import clopper_pearson, epsilon_of_rates, gdp, one_run, one_run_fdp
from palisade.evaluation.statistics.metrics import auc_estimate, roc_points, tpr_estimate, upper_limit

SIMULATED_AUDITS = 200
BOUND_METHODS = ["one_run", "one_run_fdp", "gdp", "clopper_pearson"]


def normal(seed: int, size: int = 400, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(size) + effect, rng.standard_normal(size)


def test_noise_proves_nothing() -> None:
    audits = [audit_scores(*normal(seed, effect=0.0), delta=1e-5, seed=seed) for seed in range(SIMULATED_AUDITS)]
    for method in BOUND_METHODS:
        assert np.mean([audit.bounds[method] == 0 for audit in audits]) >= 0.95, method
    assert np.mean([low <= 0.01 <= high for _, low, high in (audit.tpr[0.01] for audit in audits)]) >= 0.93


def test_a_threshold_chosen_on_the_evaluated_records_finds_leakage_in_noise() -> None:
    hindsight, held_out = 0, 0
    for seed in range(SIMULATED_AUDITS):
        scores, member = np.concatenate(normal(seed, effect=0.0)), np.arange(800) < 400
        roc = roc_points(scores, member)
        fnr, fpr = upper_limit(400 - roc.true, 400, 0.025), upper_limit(roc.false, 400, 0.025)
        hindsight += epsilon_of_rates(fnr, fpr, 0.0).max() > 0
        held_out += clopper_pearson(*held_out_calls(scores, member, delta=0.0, alpha=0.05, seed=seed)) > 0
    # Two rates at once, each at alpha/2, hardly ever err together at one threshold; at the best of all they do.
    assert held_out <= 2 < 8 < hindsight


def test_equal_scores_prove_nothing_whatever_their_order() -> None:
    tied = [audit_scores(np.zeros(500), np.zeros(500), delta=1e-5, seed=seed) for seed in range(100)]
    for method in BOUND_METHODS:
        assert sum(audit.bounds[method] > 0 for audit in tied) <= binom.ppf(0.999, 100, 0.05), method
    assert all(audit.auc.value == 0.5 for audit in tied)
    right = [guess(np.zeros(1000), np.arange(1000) < 500, 0.1, seed).correct for seed in range(100)]
    assert np.mean(right) == pytest.approx(100, abs=3)
    assert len(set(right)) > 10


def test_true_epsilon_is_not_exceeded() -> None:
    # Randomized response at ε = 1: an optimal attack on a mechanism that is known exactly.
    truth, exceeded = 1.0, {"one_run": 0, "clopper_pearson": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        member = rng.random(1000) < 0.5
        scores = (member ^ (rng.random(1000) > np.exp(truth) / (1 + np.exp(truth)))).astype(float)
        audit = audit_scores(scores[member], scores[~member], guesses=0.25, seed=seed)
        assert audit.bounds["one_run"] > 0.5
        for method in exceeded:
            exceeded[method] += audit.bounds[method] > truth
    assert max(exceeded.values()) <= binom.ppf(0.999, 100, 0.05)


def test_bounds_are_those_of_the_counts_and_no_attack_beats_the_ceiling() -> None:
    inside, outside = normal(0, effect=1.5)
    audit = audit_scores(inside, outside, delta=1e-5)
    m, r, v = audit.counts
    assert (m, r) == (800, 160)
    assert audit.bounds["one_run"] == one_run(m, r, v, 1e-5) > 0
    assert audit.bounds["one_run_fdp"] == one_run_fdp(m, r, v, 1e-5)
    assert audit.ceilings["one_run"] == one_run(m, r, r, 1e-5)
    assert audit.ceilings["gdp"] == gdp(200, 200, 0, 200, 1e-5)
    assert audit.ceilings["clopper_pearson"] == clopper_pearson(200, 200, 0, 200, 1e-5)
    perfect = audit_scores(np.ones(400), np.zeros(400), delta=1e-5)
    assert perfect.bounds == perfect.ceilings == audit.ceilings
    assert all(audit.bounds[method] <= audit.ceilings[method] for method in BOUND_METHODS)


def test_metrics_are_those_of_the_pooled_scores() -> None:
    inside, outside = normal(0)
    audit = audit_scores(inside, outside)
    scores, member = np.concatenate([inside, outside]), np.arange(800) < 400
    assert audit.auc == pytest.approx(auc_estimate(scores, member))
    assert audit.tpr[0.01] == tpr_estimate(scores, member, 0.01)
    assert audit.balanced_accuracy.value == 0.5 + audit.advantage.value / 2


def test_guesses_are_the_ends_of_the_order() -> None:
    scores, member = np.arange(10.0), np.array([True, False] * 5)
    assert guess(scores, member, 0.2) == Guesses(canaries=10, guesses=4, correct=2)
    assert guess(scores, scores >= 5, 0.5) == (10, 10, 10)
    assert guess(scores, scores < 5, 0.3) == (10, 6, 0)
    assert guess(scores, member, 0.05) == (10, 0, 0)


def test_equal_scores_are_taken_in_an_order_that_ignores_membership() -> None:
    scores, member = np.repeat([0.0, 1.0, 2.0], 100), np.arange(300) % 2 == 0
    swapped = np.concatenate([np.flatnonzero(member), np.flatnonzero(~member)])
    for seed in range(20):
        assert guess(scores, member, 0.1, seed).correct + guess(scores, ~member, 0.1, seed).correct == 60
    right = [guess(scores[swapped], member[swapped], 0.1, seed).correct for seed in range(200)]
    assert np.mean(right) == pytest.approx(30, abs=1)


def test_the_summary_says_what_each_bound_assumes() -> None:
    text = str(audit_scores(*normal(0), delta=1e-5))
    for phrase in (
        "Membership inference on 800 records, 95 % confidence",
        "AUC                 0.7",
        "TPR at 0.1 % FPR    too few records to tell",
        "Lower bounds on ε at δ = 1e-05",
        "valid if each record was in with probability ½, independently",
        "GDP, if the mechanism is Gaussian",
        "indicative: the records of one model are no independent trials",
        "guesses about who was included are right",
        "A low bound proves nothing",
    ):
        assert phrase in text
    assert "needs δ" not in text
    assert re.search(r"GDP, if the mechanism is Gaussian +needs δ \(needs δ\)", str(audit_scores(*normal(0))))
    assert max(map(len, text.splitlines())) <= 120


def test_plain_values_hold_bounds_ceilings_and_counts() -> None:
    audit = audit_scores(*normal(0), delta=1e-5)
    plain = audit.to_json()
    assert plain["bounds"] == audit.bounds
    assert plain["ceilings"] == audit.ceilings
    assert list(plain["bounds"]) == BOUND_METHODS
    assert (plain["canaries"], plain["guesses"], plain["correct"]) == audit.counts
    assert (plain["delta"], plain["alpha"]) == (1e-5, 0.05)


def test_same_seed_same_audit() -> None:
    first, again, other = (audit_scores(*normal(0), delta=1e-5, seed=seed) for seed in (0, 0, 1))
    assert str(first) == str(again)
    assert first.to_json() == again.to_json()
    assert first.bounds["clopper_pearson"] != other.bounds["clopper_pearson"]


@pytest.mark.parametrize(
    ("inside", "outside", "options", "message"),
    [
        ([1.0], [0.0, 1.0], {}, "in_scores=1, out_scores=2: expected at least 2 of each"),
        ([1.0, np.nan], [0.0, 1.0], {}, "scores: 1 are NaN; leave these records out"),
        ([1.0, 2.0], [0.0, 1.0], {"guesses": 0.6}, "guesses=0.6: expected a share > 0 and <= 0.5; "),
        ([1.0, 2.0], [0.0, 1.0], {"guesses": 0.0}, "guesses=0.0: expected a share"),
        ([1.0, 2.0], [0.0, 1.0], {"delta": 1.0}, "delta=1.0: expected a probability >= 0 and < 1"),
        ([1.0, 2.0], [0.0, 1.0], {"alpha": 0.0}, "alpha=0.0: expected an error rate"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    inside: list[float], outside: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audit_scores(np.array(inside), np.array(outside), **options)


def test_scores_are_audited_without_torch() -> None:
    code = "import sys, palisade; palisade.audit_scores; assert not {'torch', 'matplotlib', 'pandas'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_loss_that_is_passed_as_a_score_gets_a_hint_at_its_sign() -> None:
    rng = np.random.default_rng(0)
    loss_in, loss_out = rng.exponential(1.0, 300), rng.exponential(2.0, 300)
    assert REVERSED_SCORES in str(audit_scores(loss_in, loss_out, seed=0))
    assert REVERSED_SCORES not in str(audit_scores(-loss_in, -loss_out, seed=0))
    assert REVERSED_SCORES not in str(audit_scores(loss_out[:150], loss_out[150:], seed=0)), "chance is no wrong sign"
