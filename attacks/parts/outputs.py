"""Answers of models about labeled records, and the signals that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import softmax

from palisade.attacks.parts import signals

Level = Literal["label", "top-k", "probabilities", "logits"]
ANSWER_LEVELS: tuple[Level, ...] = ("label", "top-k", "probabilities", "logits")
"""Levels of answers, from little to much."""
TOP_PROBABILITIES = 10  # sorted probabilities that are looked at; the tail beyond adds little
MIN_PROBABILITY = (
    1e-6  # what smaller probabilities count as: how far they are rounded depends on the release, not on membership
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outputs:
    """The answers of a fleet: exactly one of `logits`, `probabilities` and `predictions`.

    Signals are computed from that alone, in float64. Query 0 is the record itself, further queries are its perturbed
    copies. Arrays may be memory-mapped: they are read one model at a time.

    Args:
        labels: the true class of each record, 0 to classes − 1.
        logits: as released, usually float32.
        probabilities: as released, each in [0, 1]; they need not sum to 1.
        predictions: the predicted class, where nothing else is released.
        top_k: how many probabilities of each answer are shown, the others being zero; None: all of them.

    Raises:
        ValueError: if shapes disagree, a label is out of range, or an output is NaN, infinite or no probability.
    """

    labels: Int[np.ndarray, "records"]
    logits: Float[np.ndarray, "models records *queries classes"] | None = None
    probabilities: Float[np.ndarray, "models records *queries classes"] | None = None
    predictions: Int[np.ndarray, "models records *queries"] | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        kinds = [name for name in ("logits", "probabilities", "predictions") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"outputs={kinds}: expected exactly one of logits, probabilities and predictions; pass one"
            )
        _check(kinds[0], getattr(self, kinds[0]), self.labels)
        if self.top_k is not None and (self.probabilities is None or not 1 <= self.top_k <= self.classes):
            raise ValueError(
                f"top_k={self.top_k}: expected 1 to the number of classes, with probabilities; leave it out for other"
                " outputs"
            )

    @property
    def models(self) -> int:
        """Number of models that answered."""
        return int(self._released.shape[0])

    @property
    def records(self) -> int:
        """Number of records that were asked about."""
        return len(self.labels)

    @property
    def queries(self) -> int:
        """Number of answers of a model about each record, such as one for each augmented copy."""
        return int(self._released.shape[2])

    @property
    def classes(self) -> int:
        """Number of classes; of labels alone, as many as are seen."""
        if self.outputs == "label":
            return int(max(self._released.max(), self.labels.max())) + 1
        return int(self._released.shape[-1])

    @property
    def outputs(self) -> Level:
        """The level of what is released."""
        if self.probabilities is not None:
            return "probabilities" if self.top_k is None else "top-k"
        return "label" if self.logits is None else "logits"

    @cached_property
    def log_odds(self) -> Float[np.ndarray, "models records queries"]:
        """φ: how much the model prefers the true class to all others, on an unbounded, nearly normal scale.

        Raises:
            ValueError: if only labels are released.
        """
        if self.logits is not None:
            return self._signal(signals.log_odds_of_logits, self._released)
        return self._signal(partial(signals.log_odds_of_probabilities, least=self._least), self._shown)

    @cached_property
    def standardized_log_odds(self) -> Float[np.ndarray, "models records queries"]:
        """φ on one scale for all models (`signals.standardized`), for attacks that compare models.

        Raises:
            ValueError: if only labels are released.
        """
        return _shared(signals.standardized(self.log_odds))

    @cached_property
    def loss(self) -> Float[np.ndarray, "models records queries"]:
        """Cross-entropy in nats, log(1 + e^−φ)."""
        return _shared(np.logaddexp(0.0, -self.log_odds))

    @cached_property
    def entropy(self) -> Float[np.ndarray, "models records queries"]:
        """Entropy of the whole answer, whatever the true class, in nats."""
        return self._of_probabilities(signals.entropy)

    @cached_property
    def modified_entropy(self) -> Float[np.ndarray, "models records queries"]:
        """Low only where the model is sure of the true class (Song & Mittal 2021)."""
        return self._of_probabilities(signals.modified_entropy)

    @cached_property
    def correct(self) -> Bool[np.ndarray, "models records queries"]:
        """Correctness: the predicted class is the true one."""
        predicted = self._released if self.outputs == "label" else self._released.argmax(axis=-1)
        return _shared(predicted == self.labels[:, None])

    def log_confidence(self, temperature: float = 1.0) -> Float[np.ndarray, "models records queries"]:
        """log p_y after softmax at a temperature; from probabilities, of softmax(log p / T)."""
        signal = partial(signals.log_confidence_of_logits, temperature=temperature)
        if self.logits is not None:
            return self._signal(signal, self._released)
        least = self._least
        return self._signal(
            lambda p, labels: signal(np.log(np.maximum(p.astype(np.float64), least)), labels), self._shown
        )

    def probabilities_of(self, model: int, query: int = 0) -> Float[np.ndarray, "records classes"]:
        """One model's answers to one query as probabilities, float64."""
        answers = self._shown[model, :, query].astype(np.float64)
        probabilities: np.ndarray = softmax(signals.bounded(answers), axis=-1) if self.logits is not None else answers
        return probabilities

    @property
    def _released(self) -> Shaped[np.ndarray, "models records queries *classes"]:
        if self.predictions is not None:
            return self.predictions.reshape(*self.predictions.shape[:2], -1)
        answers = self.probabilities if self.logits is None else self.logits
        assert answers is not None
        return answers if answers.ndim == 4 else answers[:, :, None]

    @cached_property
    def _shown(self) -> Float[np.ndarray, "models records queries classes"]:
        """The released scores; what the top k leave over is dealt out evenly among the classes that are not shown.

        Raises:
            ValueError: if only labels are released.
        """
        if self.outputs == "label":
            raise ValueError("log_odds need logits or probabilities; only labels are released")
        if self.top_k is None or self.top_k == self.classes:
            return self._released
        rest = np.maximum(1 - self._released.sum(axis=-1, keepdims=True), 0) / (self.classes - self.top_k)
        return np.where(self._released > 0, self._released, rest)

    @cached_property
    def _least(self) -> float:
        """Stand-in for a zero: half of the smallest probability that was ever shown, which rounding left of more."""
        smallest = min(float(np.min(block, where=block > 0, initial=1.0)) for block in self._shown)
        return max(signals.MIN_PROBABILITY, smallest / 2)

    def _of_probabilities(self, signal: signals.Signal) -> Float[np.ndarray, "models records queries"]:
        if self.logits is None:
            return self._signal(signal, self._shown)
        return self._signal(lambda z, labels: signal(softmax(signals.bounded(z), axis=-1), labels), self._released)

    def _signal(
        self, signal: signals.Signal, answers: Float[np.ndarray, "models records queries classes"]
    ) -> Float[np.ndarray, "models records queries"]:
        return _shared(signals.each_query(signal, answers, self.labels))


def _check(name: str, outputs: Shaped[np.ndarray, "*shape"], labels: np.ndarray) -> None:
    """Shapes, the range of labels, and values, one model at a time."""
    hard = name == "predictions"
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        held = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"labels={held}: expected one integer class for each record; pass such an array")
    records = len(labels)
    if outputs.ndim not in ((2, 3) if hard else (3, 4)) or 0 in outputs.shape or outputs.shape[1] != records:
        expected = f"(models, {records}[, queries]{'' if hard else ', classes'})"
        raise ValueError(
            f"{name}.shape={outputs.shape}: expected {expected}, with {records} labels; pass one row for each label"
        )
    classes = None if hard else outputs.shape[-1]
    if classes == 1:
        raise ValueError(f"{name}: expected at least 2 classes, not 1; give a score for each class")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        allowed = "0 and above" if classes is None else f"0..{classes - 1}"
        raise ValueError(f"labels={labels.min()}..{labels.max()}: expected {allowed}; number the classes from 0")
    for model, block in enumerate(outputs):
        if not np.isfinite(block).all():
            raise ValueError(f"{name} of model={model}: expected finite numbers; leave out models that diverged")
        if name == "probabilities" and (block.min() < 0 or block.max() > 1 + 1e-5):
            span = f"{block.min()}..{block.max()}"
            raise ValueError(f"{name} of model={model} in {span}: expected 0..1; normalize them, or pass logits")


def _shared(signal: np.ndarray) -> np.ndarray:
    """Read-only, since all attacks share one view."""
    signal.flags.writeable = False
    return signal


def answer_features(view: Outputs) -> Float[np.ndarray, "models records d"]:
    """Log-odds, correctness, modified entropy, and the logarithms of the largest probabilities, sorted.

    Sorting makes the answers of all classes alike (Shokri et al. 2017, section V; Salem et al. 2019, section III).
    """
    top = min(TOP_PROBABILITIES, view.classes)
    features = np.empty((view.models, view.records, top + 3))
    features[:, :, 0] = view.log_odds[:, :, 0]
    features[:, :, 1] = view.correct[:, :, 0]
    features[:, :, 2] = view.modified_entropy[:, :, 0]
    for model in range(view.models):
        probabilities = np.sort(view.probabilities_of(model), axis=1)[:, -top:]
        features[model, :, 3:] = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    return features
