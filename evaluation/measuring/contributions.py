"""Utility measures as what each test record contributes to them: their means are the measures.

Resampling these means resamples the measures to first order, so that one bootstrap serves them all (the infinitesimal
jackknife: Efron & Tibshirani 1993, section 21.3; of the area under a ROC: DeLong et al. 1988).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy.special import log_softmax

from palisade.evaluation.utility import ACCURACY, CALIBRATION, UTILITIES

BINS = 15
FULL = 10
"""Records of a bin from which on it says something."""
SMALLEST = float(np.finfo(np.float32).eps)
"""The probability that counts for a class that the models exclude, as scikit-learn has it: its log loss is 15.9."""

Values = Float[np.ndarray, "records"]
Labels = Int64[np.ndarray, "records"]
Probabilities = Float[np.ndarray, "records classes"]


def measures(
    answers: Shaped[np.ndarray, "models records *classes"], labels: Labels, level: str
) -> dict[str, Float[np.ndarray, "models records"]]:
    """Contribution of every record to every measure that the answers allow, by metric; NaN where none is defined.

    Args:
        answers: what the models let out: logits, probabilities, or classes.
        labels: 0..C−1.
        level: which of these: `logits`, `probabilities` or `label`.
    """
    models = [_of_model(np.asarray(given), labels, level) for given in answers]
    return {metric: np.stack([model[metric] for model in models]) for metric in models[0]}


def _of_model(given: Shaped[np.ndarray, "records *classes"], labels: Labels, level: str) -> Mapping[str, Values]:
    predicted = given if level == "label" else given.argmax(axis=-1)
    correct = (predicted == labels).astype(np.float64)
    told = {ACCURACY.metric: correct, UTILITIES["balanced_accuracy"].metric: balanced(correct, labels)}
    if level == "label":
        return told
    answered = given.astype(np.float64)
    logs = log_softmax(answered, axis=-1) if level == "logits" else np.log(np.maximum(answered, SMALLEST))
    probabilities = np.exp(logs) if level == "logits" else answered
    return told | {
        UTILITIES["roc_auc"].metric: area(probabilities, labels),
        UTILITIES["log_loss"].metric: -logs[np.arange(len(labels)), labels],
        CALIBRATION: miscalibrated(probabilities.max(axis=-1), correct),
    }


def balanced(correct: Values, labels: Labels) -> Values:
    """To balanced accuracy: the mean over classes of the share of their records that is classified correctly."""
    counts = np.bincount(labels)
    recalls = np.bincount(labels, weights=correct) / np.maximum(counts, 1)
    present = counts > 0
    own = (correct - recalls[labels]) / counts[labels]
    return np.asarray(recalls[present].mean() + len(labels) / present.sum() * own)


def area(probabilities: Probabilities, labels: Labels) -> Values:
    """To the macro-averaged area under the ROC of each class against the rest, over the classes that occur."""
    classes = np.unique(labels)
    if len(classes) < 2:
        return np.full(len(labels), np.nan)
    total = np.zeros(len(labels))
    for label in classes:
        of_class, scores = labels == label, probabilities[:, label]
        placed = np.where(of_class, below(scores, scores[~of_class]), 1 - below(scores, scores[of_class]))
        value, share = placed[of_class].mean(), np.where(of_class, of_class.mean(), 1 - of_class.mean())
        total += value + (placed - value) / share
    return total / len(classes)


def below(scores: Values, others: Float[np.ndarray, "others"]) -> Values:
    """The share of the others that each score exceeds, ties half."""
    ordered = np.sort(others)
    counts: Values = np.searchsorted(ordered, scores) + np.searchsorted(ordered, scores, side="right")
    return counts / (2 * len(ordered))


def miscalibrated(confidences: Values, correct: Values) -> Values:
    """To the expected calibration error over 15 bins of equally many records.

    Bins of equal width would be nearly empty but the last, since trained networks are confident (Nixon et al. 2019,
    "Measuring Calibration in Deep Learning"). Equal confidences share a bin. NaN with fewer than 10 records a bin:
    chance alone would be taken for an error. Some of that remains with more.
    """
    if len(confidences) < BINS * FULL:
        return np.full(len(confidences), np.nan)
    borders = np.quantile(confidences, np.arange(1, BINS) / BINS, method="inverted_cdf")
    bins = np.searchsorted(borders, confidences)
    apart = confidences - correct
    return np.asarray(np.sign(np.bincount(bins, weights=apart))[bins] * apart)
