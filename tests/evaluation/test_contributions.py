"""Contributions of records to a measure: their mean is the measure, their spread its spread over resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean
from palisade.evaluation.utility import MIN_PROBABILITY, area, balanced, measures, miscalibrated


def classified(records: int, rare: float = 0.05, models: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, records, p=[0.7, 0.3 - rare, rare])
    logits = rng.normal(size=(models, records, 3)) + 1.5 * np.eye(3)[labels]
    return logits.astype(np.float32), labels


def test_means_are_those_of_scikit_learn() -> None:
    logits, labels = classified(400)
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    for level, outputs in (("logits", logits), ("probabilities", probabilities)):
        means = {metric: values.mean(axis=1) for metric, values in measures(outputs, labels, level).items()}
        for k, p in enumerate(probabilities):
            predicted = p.argmax(axis=1)
            expected = {
                "test_accuracy": sk.accuracy_score(labels, predicted),
                "test_balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
                "test_roc_auc": sk.roc_auc_score(labels, p, multi_class="ovr", average="macro"),
                "test_log_loss": sk.log_loss(labels, p),
            }
            assert {metric: means[metric][k] for metric in expected} == pytest.approx(expected)


def test_labels_alone_allow_two_measures() -> None:
    logits, labels = classified(200)
    by_metric = measures(logits.argmax(axis=-1), labels, "label")
    assert set(by_metric) == {"test_accuracy", "test_balanced_accuracy"}
    full = measures(logits, labels, "logits")
    assert all(np.array_equal(by_metric[metric], full[metric]) for metric in by_metric)


def test_area_counts_ties_as_half_and_skips_absent_classes() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    tied = np.array([[0.5, 0.5, 0.0], [0.7, 0.3, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    assert area(tied, labels).mean() == pytest.approx(sk.roc_auc_score(labels, tied[:, 1]))
    assert np.isnan(area(tied[:2], labels[:2])).all()


def test_an_excluded_class_costs_what_scikit_learn_says() -> None:
    labels, answers = np.array([0, 1] * 10), np.tile([1.0, 0.0], (20, 1)).astype(np.float32)
    losses = measures(answers[None], labels, "probabilities")["test_log_loss"]
    assert (
        losses.mean()
        == pytest.approx(sk.log_loss(labels, answers))
        == pytest.approx(-np.log(MIN_PROBABILITY) / 2, rel=1e-5)
    )


def test_calibration_error_by_hand() -> None:
    confidences = np.repeat(np.linspace(0.15, 0.95, 15), 20)  # too low, then too high
    right = np.tile([1.0] * 10 + [0.0] * 10, 15)
    expected = np.abs(confidences.reshape(15, 20).mean(axis=1) - 0.5).mean()
    assert miscalibrated(confidences, right).mean() == pytest.approx(expected)


def test_equal_confidences_share_a_bin_in_any_order() -> None:
    right = np.random.default_rng(0).permutation(np.repeat([1.0, 0.0], [270, 30]))
    assert miscalibrated(np.ones(300), right).mean() == pytest.approx(0.1)
    assert np.isnan(miscalibrated(np.ones(149), np.ones(149))).all()


def exact(measure, arrays: tuple[np.ndarray, ...], labels: np.ndarray) -> tuple[float, float]:
    """The percentiles of the measure on resampled records."""
    values = []
    for weights, _ in ((w, None) for _, w in Bootstrap(replicates=400).weights(1, len(labels))):
        drawn = np.repeat(np.arange(len(labels)), weights.astype(int))
        values.append(measure(*(array[drawn] for array in arrays), labels[drawn]).mean())
    return tuple(np.quantile(values, [0.025, 0.975]))


def test_intervals_are_those_of_measuring_every_resample_anew() -> None:
    logits, labels = classified(600, models=1)
    probabilities = softmax(logits[0].astype(np.float64), axis=-1)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    for measure, array in ((area, probabilities), (balanced, correct)):
        low, high = exact(measure, (array,), labels)
        estimate = fleet_mean(measure(array, labels)[None], Bootstrap(replicates=400))
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.15 * (high - low))


@pytest.mark.parametrize("metric", ["test_balanced_accuracy", "test_roc_auc"])
def test_intervals_hold_the_true_value(metric: str) -> None:
    rng, truth = np.random.default_rng(1), classified(60_000, models=1)
    true = measures(*truth, "logits")[metric].mean()
    held = 0
    for _ in range(60):
        drawn = rng.choice(60_000, 300, replace=False)
        mean = fleet_mean(measures(truth[0][:, drawn], truth[1][drawn], "logits")[metric], Bootstrap(replicates=100))
        held += mean.low <= true <= mean.high
    assert held >= 51  # of 60; 95 % would be 57
