import numpy as np
import pytest
from scipy import stats

from palisade.evaluation.measuring.leakage import ROC_METRICS as LEAKAGE
from palisade.evaluation.statistics import bootstrap
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean, fleet_metrics
from palisade.evaluation.statistics.metrics import advantage_estimate, roc_auc, tpr_at_fpr
from palisade.evaluation.statistics.roc import Ranking, Roc

ROC_METRICS = {"auc": Roc.auc, "tpr": lambda roc: roc.tpr_at(0.1), "advantage": Roc.advantage}


def fleet(seed: int, models: int = 8, records: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Scores in which models differ in what they leak and records in how hard they are."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    leak = 1 + 0.3 * rng.standard_normal((models, 1)) + 0.8 * rng.standard_normal(records)
    return leak * member + rng.standard_normal(records) + rng.standard_normal((models, records)), member


def test_value_is_the_mean_of_each_models_own() -> None:
    scores, member = fleet(0)
    metrics = fleet_metrics(scores, member, ROC_METRICS, Bootstrap(replicates=5))
    own = {
        "auc": [roc_auc(*row) for row in zip(scores, member, strict=True)],
        "tpr": [tpr_at_fpr(*row, 0.1) for row in zip(scores, member, strict=True)],
        "advantage": [advantage_estimate(*row).value for row in zip(scores, member, strict=True)],
    }
    for name, values in own.items():
        np.testing.assert_allclose(metrics.per_model[name], values)
        assert metrics.estimates[name].value == pytest.approx(np.mean(values))
    np.testing.assert_array_equal(metrics.members, member.sum(axis=1))
    np.testing.assert_array_equal(metrics.nonmembers, (~member).sum(axis=1))


def test_interval_equals_a_bootstrap_that_copies_models_and_records() -> None:
    scores, member = fleet(0, models=4, records=60)
    bootstrap = Bootstrap(replicates=20, seed=3)
    values = []
    for models, records in bootstrap.weights(4, 60):
        chosen = np.repeat(np.arange(60), records.astype(int))
        own = [roc_auc(scores[k, chosen], member[k, chosen]) for k in np.repeat(np.arange(4), models.astype(int))]
        values.append(np.mean(own))
    auc = fleet_metrics(scores, member, {"auc": Roc.auc}, bootstrap).estimates["auc"]
    assert (auc.low, auc.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("fleets", "replicates", "least"),
    [(40, 80, 0.9), pytest.param(200, 150, 0.93, marks=pytest.mark.slow)],  # few fleets show coverage less exactly
    ids=["fast", "full"],
)
def test_intervals_cover_the_truth(fleets: int, replicates: int, least: float) -> None:
    # Variances: 0.3² of models and 0.8² of records in what they leak, 2 of hardness and noise on either side.
    truth = {
        "auc": stats.norm.sf(-1 / np.sqrt(0.3**2 + 0.8**2 + 4)),
        "tpr": stats.norm.sf((np.sqrt(2) * stats.norm.isf(0.1) - 1) / np.sqrt(0.3**2 + 0.8**2 + 2)),
    }
    intervals = [
        fleet_metrics(*fleet(seed, models=12), ROC_METRICS, Bootstrap(replicates=replicates, seed=seed)).estimates
        for seed in range(fleets)
    ]
    for metric, value in truth.items():
        assert np.mean([each[metric].low <= value <= each[metric].high for each in intervals]) >= least, metric


def test_noise_shows_no_leakage_within_its_interval() -> None:
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, member = rng.standard_normal((8, 200)), rng.random((8, 200)) < 0.5
        estimates = fleet_metrics(scores, member, ROC_METRICS, Bootstrap(replicates=50, seed=seed)).estimates
        inside.append(estimates["tpr"].low <= 0.1 <= estimates["tpr"].high)
    assert np.mean(inside) >= 0.93


def test_records_without_a_score_are_dropped_and_counted() -> None:
    scores, member = fleet(0)
    scores[2, :100], scores[3] = np.nan, np.nan
    metrics = fleet_metrics(scores, member, ROC_METRICS, Bootstrap(replicates=5))
    np.testing.assert_array_equal(metrics.dropped, [0, 0, 100, 300, 0, 0, 0, 0])
    assert metrics.members[2] + metrics.nonmembers[2] == 200
    assert metrics.per_model["auc"][2] == roc_auc(scores[2, 100:], member[2, 100:])
    assert np.isnan(metrics.per_model["auc"][3])
    assert metrics.estimates["auc"].value == pytest.approx(np.nanmean(metrics.per_model["auc"]))


def test_what_cannot_be_resolved_is_nan_throughout() -> None:
    scores, member = fleet(0)
    metrics = fleet_metrics(scores, member, {"tpr": lambda roc: roc.tpr_at(0.001)}, Bootstrap(replicates=5))
    assert all(np.isnan(metrics.estimates["tpr"]))
    nothing = fleet_metrics(np.full_like(scores, np.nan), member, ROC_METRICS, Bootstrap(replicates=5))
    assert all(np.isnan(value) for estimate in nothing.estimates.values() for value in estimate)


def test_a_small_class_may_vanish_from_a_resample() -> None:
    scores, member = fleet(0, records=3)
    member[:] = [True, False, False]
    estimate = fleet_metrics(scores, member, {"auc": Roc.auc}).estimates["auc"]
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("ties", [True, False])
def test_several_weighings_together_give_what_each_gives_alone(ties: bool) -> None:
    rng = np.random.default_rng(0)
    scores, member = rng.integers(12, size=900).astype(float), rng.random(900) < 0.5
    scores += 0 if ties else rng.random(900)
    scores[:7] = np.nan
    weights = rng.integers(3, size=(5, 900)).astype(np.uint8)
    weights[3, member] = 0  # a resample that misses one side
    weights[4] *= 100
    ranking = Ranking(scores, member)
    for metric in LEAKAGE.values():
        together = np.asarray(metric(ranking.reweighed(weights.T)))
        alone = [metric(ranking.roc(own)) for own in weights]
        np.testing.assert_array_equal(together, alone)
        assert np.isnan(together[3])


def test_replicates_are_the_same_however_many_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, member = fleet(0, models=3, records=40)
    runs = []
    for at_once in (1, 7 * 41, 10**6):
        monkeypatch.setattr(bootstrap, "AT_ONCE", at_once)
        runs.append(fleet_metrics(scores, member, LEAKAGE, Bootstrap(replicates=20)).estimates)
    np.testing.assert_array_equal(*(list(one.values()) for one in runs[:2]))
    np.testing.assert_array_equal(*(list(one.values()) for one in runs[1:]))


def test_same_seed_same_interval_and_both_ways_are_resampled() -> None:
    scores, member = fleet(0)
    first, again, other = (fleet_metrics(scores, member, ROC_METRICS, Bootstrap(seed=s)).estimates for s in (0, 0, 1))
    assert first == again != other
    for models, records in Bootstrap(replicates=3).weights(8, 300):
        assert (models.sum(), records.sum()) == (8, 300)
        assert len(set(models)) > 1 < len(set(records))


def test_groups_and_persons_are_drawn_together() -> None:
    twins, persons = np.array([0, 0, 1, 1, 2, 2]), np.array([7, 7, 3, 7, 3])
    for models, records in Bootstrap(replicates=10, groups=twins, persons=persons).weights(6, 5):
        np.testing.assert_array_equal(models[::2], models[1::2])
        assert len(set(records[[0, 1, 3]])) == len(set(records[[2, 4]])) == 1


def test_one_model_alone_has_an_interval_over_its_records() -> None:
    scores, member = fleet(0)
    estimate = fleet_metrics(scores[:1], member[:1], {"auc": Roc.auc}).estimates["auc"]
    assert estimate.low < estimate.value < estimate.high


def test_all_or_nothing_leaves_as_much_open_as_its_records_do() -> None:
    """No resample of ten right answers shows a wrong one, of which one in three might still be."""
    right = np.ones((6, 10))
    assert fleet_mean(right).value == 1
    assert fleet_mean(right)[1:] == pytest.approx(stats.binomtest(10, 10).proportion_ci()[:])
    assert fleet_mean(1 - right)[1:] == pytest.approx(stats.binomtest(0, 10).proportion_ci()[:])
    of_five = Bootstrap(persons=np.arange(10) // 2)
    assert fleet_mean(right, of_five)[1:] == pytest.approx(stats.binomtest(5, 5).proportion_ci()[:])
    right[:, 7:] = np.nan
    assert fleet_mean(right)[1:] == pytest.approx(stats.binomtest(7, 7).proportion_ci()[:])

    members = np.arange(40) < 30
    metrics = fleet_metrics(np.stack([members, members]).astype(float), np.stack([members, members]), ROC_METRICS)
    assert metrics.estimates["auc"] == pytest.approx((1, *stats.binomtest(10, 10).proportion_ci()))
    constant = fleet_metrics(np.zeros((2, 40)), np.stack([members, members]), ROC_METRICS)
    assert constant.estimates["tpr"] == pytest.approx((0, *stats.binomtest(0, 10).proportion_ci()))
    assert constant.estimates["auc"][:] == (0.5, 0.5, 0.5)


def test_mean_over_a_fleet_with_what_does_not_count() -> None:
    rng = np.random.default_rng(0)
    correct, member = (rng.random((6, 500)) < 0.8).astype(float), rng.random((6, 500)) < 0.5
    accuracy = fleet_mean(correct)
    assert accuracy.value == pytest.approx(correct.mean())
    assert 0.75 < accuracy.low < accuracy.value < accuracy.high < 0.85
    train = fleet_mean(np.where(member, correct, np.nan))
    assert train.value == pytest.approx(np.mean([correct[k, member[k]].mean() for k in range(6)]))


def test_means_cover_the_truth() -> None:
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = 0.3 * rng.standard_normal((10, 1)) + rng.standard_normal(50) + rng.standard_normal((10, 50))
        _, low, high = fleet_mean(values, Bootstrap(replicates=100, seed=seed))
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.9


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ValueError, match="replicates=1"):
        Bootstrap(replicates=1)
    with pytest.raises(ValueError, match="alpha=1"):
        Bootstrap(alpha=1)
    with pytest.raises(ValueError, match=r"scores.shape=\(8, 299\), membership.shape=\(8, 300\)"):
        fleet_metrics(fleet(0)[0][:, 1:], fleet(0)[1], ROC_METRICS)
