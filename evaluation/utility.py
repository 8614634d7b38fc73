"""Utility: the measures that a curve weighs against leakage, and what each test record contributes to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy.special import log_softmax

from palisade.attacks.parts.answers import MappedAnswers
from palisade.evaluation.format import Interval, number

CALIBRATION_METRIC = "test_calibration_error"
"""The metric beside every utility: the expected calibration error."""
AFFORDABLE_LOSS = 0.05
"""A small loss for protection: points of a rate, or nats of log loss, which is as much of a likelihood."""


@dataclass(frozen=True, kw_only=True)
class Utility:
    """One measure of how useful models are; all of them are measured, one is chosen to read the results by.

    Args:
        name: as `utility=` chooses it.
        words: for axes, headings and sentences.
        higher_is_better: whether a larger value is of more use.
        is_rate: whether it is shown in percent.
        needs: the least that the models must answer with.
    """

    name: str
    words: str
    higher_is_better: bool = True
    is_rate: bool = True
    needs: str = "label"

    @classmethod
    def named(cls, name: str) -> Utility:
        """The measure of this name.

        Raises:
            ValueError: if there is none.
        """
        if not isinstance(name, str) or name not in UTILITY_MEASURES:
            raise ValueError(
                f"utility={name}: expected one of {', '.join(UTILITY_MEASURES)}; choose e.g. {TEST_ACCURACY.name}"
            )
        return UTILITY_MEASURES[name]

    @property
    def metric(self) -> str:
        """Its name in results.csv."""
        return f"test_{self.name}"

    @property
    def axis(self) -> str:
        """Label of an axis of its values."""
        return self.words if self.higher_is_better else f"{self.words} (lower is better)"

    @property
    def nearly(self) -> str:
        """Description of runs that lose no more than is affordable."""
        lost = f"{100 * AFFORDABLE_LOSS:g} points" if self.is_rate else f"{AFFORDABLE_LOSS:g}"
        return f"within {lost} of the best {self.words.replace('test ', '')}"

    def text(self, row: Interval | None, *, interval: bool = False) -> str:
        """A value for people, with its interval on request: `67.5 % [66.0–69.1]`, `0.412 [0.398–0.431]`."""
        factor, digits, unit = (100, 1, " %") if self.is_rate else (1, 3, "")
        return number(row, factor=factor, digits=digits, unit=unit, interval=interval)

    def worth(self, value: float | None) -> float:
        """The value turned so that more is better, whatever the measure; −inf where there is none."""
        if value is None:
            return -math.inf
        return value if self.higher_is_better else -value


TEST_ACCURACY = Utility(name="accuracy", words="test accuracy")
UTILITY_MEASURES: Mapping[str, Utility] = {
    utility.name: utility
    for utility in (
        TEST_ACCURACY,
        Utility(name="balanced_accuracy", words="balanced test accuracy"),
        Utility(name="roc_auc", words="test ROC AUC", is_rate=False, needs="probabilities"),
        Utility(name="log_loss", words="test log loss", is_rate=False, higher_is_better=False, needs="probabilities"),
    )
}


CALIBRATION_BINS = 15
MIN_BIN_RECORDS = 10
"""Fewest records of a bin."""
MIN_PROBABILITY = float(np.finfo(np.float32).eps)
"""The probability that counts for a class that the models exclude, as scikit-learn has it: its log loss is 15.9."""

Values = Float[np.ndarray, "records"]
Labels = Int64[np.ndarray, "records"]
Probabilities = Float[np.ndarray, "records classes"]


def measures(
    answers: Shaped[np.ndarray, "models records *classes"] | MappedAnswers, labels: Labels, level: str
) -> dict[str, Float[np.ndarray, "models records"]]:
    """Contribution of every record to every measure that the answers allow, by metric; NaN where none is defined.

    Args:
        answers: what the models let out: logits, probabilities, or classes.
        labels: 0..C−1.
        level: which of these: `logits`, `probabilities` or `label`.
    """
    models = [_of_model(np.asarray(outputs), labels, level) for outputs in answers]
    return {metric: np.stack([model[metric] for model in models]) for metric in models[0]}


def _of_model(outputs: Shaped[np.ndarray, "records *classes"], labels: Labels, level: str) -> Mapping[str, Values]:
    predicted = outputs if level == "label" else outputs.argmax(axis=-1)
    correct = (predicted == labels).astype(np.float64)
    values = {TEST_ACCURACY.metric: correct, UTILITY_MEASURES["balanced_accuracy"].metric: balanced(correct, labels)}
    if level == "label":
        return values
    answered = outputs.astype(np.float64)
    logs = log_softmax(answered, axis=-1) if level == "logits" else np.log(np.maximum(answered, MIN_PROBABILITY))
    probabilities = np.exp(logs) if level == "logits" else answered
    return values | {
        UTILITY_MEASURES["roc_auc"].metric: area(probabilities, labels),
        UTILITY_MEASURES["log_loss"].metric: -logs[np.arange(len(labels)), labels],
        CALIBRATION_METRIC: miscalibrated(probabilities.max(axis=-1), correct),
    }


def balanced(correct: Values, labels: Labels) -> Values:
    """Contributions to balanced accuracy: the mean over classes of the share that is classified correctly."""
    counts = np.bincount(labels)
    recalls = np.bincount(labels, weights=correct) / np.maximum(counts, 1)
    present = counts > 0
    own = (correct - recalls[labels]) / counts[labels]
    return np.asarray(recalls[present].mean() + len(labels) / present.sum() * own)


def area(probabilities: Probabilities, labels: Labels) -> Values:
    """Contributions to the macro-averaged ROC AUC of each class against the rest, over the classes that occur."""
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
    """Contributions to the expected calibration error over 15 bins of equally many records.

    Bins of equal width would be nearly empty but the last, since trained networks are confident (Nixon et al. 2019,
    "Measuring Calibration in Deep Learning"). Equal confidences share a bin. NaN with fewer than 10 records a bin:
    chance alone would be taken for an error. Some of that remains with more.
    """
    if len(confidences) < CALIBRATION_BINS * MIN_BIN_RECORDS:
        return np.full(len(confidences), np.nan)
    borders = np.quantile(confidences, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, method="inverted_cdf")
    bins = np.searchsorted(borders, confidences)
    apart = confidences - correct
    return np.asarray(np.sign(np.bincount(bins, weights=apart))[bins] * apart)
