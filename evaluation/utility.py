"""Utility: the measures that a curve weighs against leakage, and what each test record contributes to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy.special import log_softmax

from palisade.attacks.parts.answers import MappedAnswers
from palisade.evaluation.format import NO_NUMBER, Interval, decimals, number

CALIBRATION_METRIC = "test_calibration_error"
"""The metric beside every utility: the expected calibration error."""
AFFORDABLE_LOSS = 0.05
"""A small loss for protection: points of a rate, or nats of log loss, which is as much of a likelihood."""

PERPLEXITY_NAME = "perplexity"


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
        measures = {**UTILITY_MEASURES, **DOCUMENT_MEASURES}
        if not isinstance(name, str) or name not in measures:
            raise ValueError(f"utility={name}: expected one of {', '.join(measures)}; choose e.g. {TEST_ACCURACY.name}")
        return measures[name]

    @property
    def is_perplexity(self) -> bool:
        """True for e to a log loss, of which what is affordable is a factor."""
        return self.name == PERPLEXITY_NAME

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
        share = f"{100 * AFFORDABLE_LOSS:g}"
        lost = f"{share} points" if self.is_rate else f"{share} %" if self.is_perplexity else f"{AFFORDABLE_LOSS:g}"
        return f"within {lost} of the best {self.words.replace('test ', '')}"

    def text(self, row: Interval | None, *, interval: bool = False) -> str:
        """A value for people, with its interval on request: `67.5 % [66.0–69.1]`, `0.412 [0.398–0.431]`."""
        if row is None or row.value is None:
            return NO_NUMBER
        factor, unit = (100, " %") if self.is_rate else (1, "")
        return number(row, factor=factor, digits=self.decimals(row.value), unit=unit, interval=interval)

    def decimals(self, value: float) -> int:
        """Digits behind the point of a value, its interval and differences from it, as they are shown."""
        return 1 if self.is_rate else decimals(value) if self.is_perplexity else 3

    def worth(self, value: float | None) -> float:
        """The value turned so that more is better, whatever the measure; −inf where there is none."""
        if value is None:
            return -math.inf
        return value if self.higher_is_better else -value

    def least_affordable(self, best: float) -> float:
        """The least worth of what is nearly as useful as the best, whose worth is the argument."""
        return best * math.exp(AFFORDABLE_LOSS) if self.is_perplexity else best - AFFORDABLE_LOSS


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
TEST_PERPLEXITY = Utility(name=PERPLEXITY_NAME, words="test perplexity", is_rate=False, higher_is_better=False)
DOCUMENT_MEASURES: Mapping[str, Utility] = {
    utility.name: utility
    for utility in (
        TEST_ACCURACY,
        Utility(name="nats", words="test nats a token", is_rate=False, higher_is_better=False),
        TEST_PERPLEXITY,
        Utility(name="bits_per_byte", words="test bits a byte", is_rate=False, higher_is_better=False),
    )
}
"""Measures of language models. Perplexity is e to the nats a token; bits a byte do not depend on the tokens."""


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


def document_measures(
    rows: Shaped[np.ndarray, "documents T"], text_bytes: Int64[np.ndarray, "documents"]
) -> Mapping[str, Values]:
    """Contributions of documents to every measure of a language model; their mean is that over all tokens, or bytes.

    Args:
        rows: of one model, of `data.sequences.TOKEN_ROW`.
        text_bytes: length of each text as far as it is read.
    """
    log_probability, is_token = rows["log_probability"].astype(np.float64), ~np.isnan(rows["log_probability"])
    sums, counts = -np.nansum(log_probability, axis=1), is_token.sum(axis=1)
    nats, right = sums / counts.mean(), rows["greedy"].sum(axis=1) / counts.mean()
    bits = sums / np.log(2) / text_bytes.mean()
    perplexity = np.exp(nats.mean())
    values = {"accuracy": right, "nats": nats, "perplexity": perplexity * (1 + nats - nats.mean())}
    return {DOCUMENT_MEASURES[name].metric: own for name, own in {**values, "bits_per_byte": bits}.items()}


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
