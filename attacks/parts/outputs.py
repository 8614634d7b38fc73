"""Answers of models about labeled records, and the signals that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import softmax

from palisade.attacks.parts import signals
from palisade.attacks.parts.answers import MappedAnswers, Places
from palisade.attacks.parts.blocks import blocks, room
from palisade.attacks.parts.signals import Signal

Level = Literal["label", "top-k", "probabilities", "logits"]
ANSWER_LEVELS: tuple[Level, ...] = ("label", "top-k", "probabilities", "logits")
"""Levels of answers, from little to much."""
ANSWER_FIELDS = ("logits", "probabilities", "predictions", "signals")
"""Kinds of answers, of which a fleet gives one."""
TOP_PROBABILITIES = 10  # sorted probabilities that are looked at; the tail beyond adds little
MIN_PROBABILITY = (
    1e-6  # what smaller probabilities count as: how far they are rounded depends on the release, not on membership
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outputs:
    """The answers of a fleet: exactly one of `logits`, `probabilities`, `predictions` and `signals`.

    Signals are computed from that alone, in float64. Query 0 is the record itself, further queries are its perturbed
    copies. Answers may be memory-mapped or `MappedAnswers`: they are read one model, query and block of records at a
    time, and a signal that is large lies in a file (`blocks.room`).

    Args:
        labels: the true class of each record, 0 to classes − 1.
        logits: as released, usually float32.
        probabilities: as released, each in [0, 1]; they need not sum to 1.
        predictions: the predicted class, where nothing else is released.
        signals: what follows from answers that were let go of, a row of `signals.row_type` a record; attacks that look
            at whole answers cannot do with them.
        top_k: how many probabilities of each answer are shown, the others being zero; None: all of them.

    Raises:
        ValueError: if shapes disagree, a label is out of range, or an output is NaN, infinite or no probability.
    """

    labels: Int[np.ndarray, "records"]
    logits: Float[np.ndarray, "models records *queries classes"] | MappedAnswers | None = None
    probabilities: Float[np.ndarray, "models records *queries classes"] | MappedAnswers | None = None
    predictions: Int[np.ndarray, "models records *queries"] | MappedAnswers | None = None
    signals: Shaped[np.ndarray, "models records *queries"] | MappedAnswers | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        kinds = [name for name in ANSWER_FIELDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"outputs={kinds}: expected exactly one of {', '.join(ANSWER_FIELDS)}; pass one")
        _check_shapes(kinds[0], getattr(self, kinds[0]), self.labels)
        self._check_values(kinds[0])
        if self.top_k is not None and (self.probabilities is None or not 1 <= self.top_k <= self.classes):
            raise ValueError(
                f"top_k={self.top_k}: expected 1 to the number of classes, with probabilities; leave it out for other"
                " outputs"
            )

    @property
    def models(self) -> int:
        """Number of models that answered."""
        return len(self._released)

    @property
    def records(self) -> int:
        """Number of records that were asked about."""
        return len(self.labels)

    @cached_property
    def queries(self) -> int:
        """Number of answers of a model about each record, such as one for each augmented copy."""
        shape, alone = self._released.shape, 3 if self.whole_answers else 2
        return int(shape[2]) if len(shape) > alone else 1

    @cached_property
    def classes(self) -> int:
        """Number of classes; of labels or signals alone, as many as are seen."""
        if not self.whole_answers:
            largest = [self._predicted_of(*one).max() for one in np.ndindex(self.models, self.queries)]
            return int(max(*largest, self.labels.max())) + 1
        return int(self._released.shape[-1])

    @property
    def outputs(self) -> Level:
        """The level of what is released; signals say what probabilities do."""
        if self.probabilities is not None or self.signals is not None:
            return "probabilities" if self.top_k is None else "top-k"
        return "label" if self.logits is None else "logits"

    @property
    def whole_answers(self) -> bool:
        """True where scores of all classes are there."""
        return self.logits is not None or self.probabilities is not None

    @cached_property
    def temperatures(self) -> tuple[float, ...] | None:
        """Temperatures at which log p is there; None: at all of them."""
        if self.signals is None:
            return None
        asked = np.ndindex(self.models, self.queries)
        return signals.temperatures_of(self._released_of(model, query, slice(1)).dtype for model, query in asked)

    @cached_property
    def log_odds(self) -> Float[np.ndarray, "models records queries"]:
        """φ: how much the model prefers the true class to all others, on an unbounded, nearly normal scale.

        Raises:
            ValueError: if only labels are released.
        """
        if self.signals is not None:
            return self._column("log_odds")
        if self.logits is not None:
            return self._signal(signals.log_odds_of_logits)
        return self._signal(partial(signals.log_odds_of_probabilities, least=self._least))

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
        loss = _queries_last((self.queries, self.models, self.records))
        for block in self.blocks():
            loss[:, block] = np.logaddexp(0.0, -self.log_odds[:, block])
        return _shared(loss)

    @cached_property
    def entropy(self) -> Float[np.ndarray, "models records queries"]:
        """Entropy of the whole answer, whatever the true class, in nats."""
        if self.signals is not None:
            return self._column("entropy")
        return self._signal(self._of_probabilities(signals.entropy))

    @cached_property
    def modified_entropy(self) -> Float[np.ndarray, "models records queries"]:
        """Low only where the model is sure of the true class (Song & Mittal 2021)."""
        if self.signals is not None:
            return self._column("modified_entropy")
        return self._signal(self._of_probabilities(signals.modified_entropy))

    @cached_property
    def correct(self) -> Bool[np.ndarray, "models records queries"]:
        """Correctness: the predicted class is the true one."""
        correct = _queries_last((self.queries, self.models, self.records), np.bool_)
        for model, query, block in self._each():
            correct[model, block, query] = self._predicted_of(model, query, block) == self.labels[block]
        return _shared(correct)

    def log_confidence(self, temperature: float = 1.0) -> Float[np.ndarray, "models records queries"]:
        """log p_y after softmax at a temperature; from probabilities, of softmax(log p / T).

        Raises:
            ValueError: if only labels are released, or signals that hold it at other temperatures.
        """
        if self.temperatures is not None and temperature not in self.temperatures:
            listed = ", ".join(f"{each:g}" for each in self.temperatures)
            raise ValueError(f"temperature={temperature:g}: expected one of the signals', {listed}; choose one of them")
        if self.signals is not None:
            return self._column(signals.confidence_column(temperature))
        if temperature not in self._log_confidences:
            signal, least = partial(signals.log_confidence_of_logits, temperature=temperature), 0.0
            if self.logits is None:
                least = self._least

            def of_probabilities(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
                return signal(np.log(np.maximum(p.astype(np.float64), least)), labels)

            self._log_confidences[temperature] = self._signal(of_probabilities if self.logits is None else signal)
        return self._log_confidences[temperature]

    def probabilities_of(
        self, model: int, query: int = 0, records: Places = slice(None)
    ) -> Float[np.ndarray, "n classes"]:
        """One model's answers to one query about some records as probabilities, float64."""
        answers = self._shown_of(model, query, records).astype(np.float64)
        probabilities: np.ndarray = softmax(signals.bounded(answers), axis=-1) if self.logits is not None else answers
        return probabilities

    def blocks(self) -> Iterator[slice]:
        """Slices of the records, so narrow that a signal of all models fits into little memory."""
        return blocks(self.models, self.records)

    def to_first(self, queries: int | None) -> Self:
        """The answers to the first queries alone; None: to all of them."""
        if queries is None or queries >= self.queries:
            return self
        if queries not in self._cuts:
            fewer = {name: _first(getattr(self, name), queries) for name in ANSWER_FIELDS}
            self._cuts[queries] = self.altered(**fewer)
        return self._cuts[queries]

    def altered(self, **changes: Any) -> Self:
        """Answers with other fields, which follow from checked ones: nothing is read to be checked again."""
        altered = copy(self)
        vars(altered).clear()
        vars(altered).update({field.name: getattr(self, field.name) for field in fields(self)} | changes)
        return altered

    @cached_property
    def _cuts(self) -> dict[int, Self]:
        return {}

    @cached_property
    def _log_confidences(self) -> dict[float, np.ndarray]:
        return {}

    @property
    def _released(self) -> Shaped[np.ndarray, "models records *queries_classes"] | MappedAnswers:
        return next(answers for name in ANSWER_FIELDS if (answers := getattr(self, name)) is not None)

    def _released_of(
        self, model: int, query: int = 0, records: Places = slice(None)
    ) -> Shaped[np.ndarray, "n *classes"]:
        """The answers of a model to a query, as released."""
        answers = self._released
        if isinstance(answers, MappedAnswers):
            return answers.of(model, query, records)
        alone = 3 if self.whole_answers else 2
        return answers[model][records] if answers.ndim == alone else answers[model][records, query]

    def _shown_of(self, model: int, query: int, records: Places = slice(None)) -> Float[np.ndarray, "n classes"]:
        """The released scores; what the top k leave over is dealt out evenly among the classes that are not shown.

        Raises:
            ValueError: if only labels or signals are released.
        """
        if self.signals is not None:
            raise ValueError("whole answers are not there; pass logits or probabilities in the place of signals")
        if self.outputs == "label":
            raise ValueError("log_odds need logits or probabilities; only labels are released")
        released = self._released_of(model, query, records)
        if self.top_k is None or self.top_k == self.classes:
            return released
        rest = np.maximum(1 - released.sum(axis=-1, keepdims=True), 0) / (self.classes - self.top_k)
        return np.where(released > 0, released, rest)

    @cached_property
    def _least(self) -> float:
        """Stand-in for a zero: half of the smallest probability that was ever shown, which rounding left of more."""
        shown = (self._shown_of(*asked) for asked in self._each())
        smallest = min(float(np.min(answers, where=answers > 0, initial=1.0)) for answers in shown)
        return max(signals.MIN_PROBABILITY, smallest / 2)

    def _of_probabilities(self, signal: Signal) -> Signal:
        if self.logits is None:
            return signal
        return lambda z, labels: signal(softmax(signals.bounded(z), axis=-1), labels)

    def _signal(self, signal: Signal) -> Float[np.ndarray, "models records queries"]:
        """A signal of every model and query."""
        values = _queries_last((self.queries, self.models, self.records))
        for model, query, block in self._each():
            values[model, block, query] = signal(self._shown_of(model, query, block), self.labels[block])
        return _shared(values)

    def _column(self, name: str) -> Float[np.ndarray, "models records queries"]:
        """A signal that is there, of every model and query."""
        values = _queries_last((self.queries, self.models, self.records))
        for model, query, block in self._each():
            values[model, block, query] = self._released_of(model, query, block)[name]
        return _shared(values)

    def _predicted_of(self, model: int, query: int, records: Places = slice(None)) -> Int[np.ndarray, "n"]:
        """The predicted classes of a model's answers to a query."""
        answers = self._released_of(model, query, records)
        if self.signals is not None:
            return np.asarray(answers["predicted"])
        return answers if self.predictions is not None else np.asarray(answers.argmax(axis=-1))

    def _each(self) -> Iterator[tuple[int, int, slice]]:
        """Every model, query and block of records whose answers are few enough to work on."""
        classes = self.classes if self.whole_answers else 1
        for model, query in np.ndindex(self.models, self.queries):
            yield from ((model, query, block) for block in blocks(classes, self.records))

    def _check_values(self, name: str) -> None:
        for model, query, block in self._each():
            answers = self._released_of(model, query, block)
            columns = [answers] if answers.dtype.names is None else [answers[column] for column in answers.dtype.names]
            if not all(np.isfinite(column).all() for column in columns):
                raise ValueError(f"{name} of model={model}: expected finite numbers; leave out models that diverged")
            if name == "probabilities" and (answers.min() < 0 or answers.max() > 1 + 1e-5):
                span = f"{answers.min()}..{answers.max()}"
                raise ValueError(f"{name} of model={model} in {span}: expected 0..1; normalize them, or pass logits")


def _queries_last(
    shape: tuple[int, int, int], dtype: type = np.float64
) -> Shaped[np.ndarray, "models records queries"]:
    """Room for a signal of (queries, models, records), in which a query lies in one piece."""
    return np.moveaxis(room(shape, dtype), 0, -1)


def _first(
    answers: Shaped[np.ndarray, "models records queries ..."] | MappedAnswers | None, queries: int
) -> Shaped[np.ndarray, "models records queries ..."] | MappedAnswers | None:
    if answers is None:
        return None
    return answers.to_first(queries) if isinstance(answers, MappedAnswers) else answers[:, :, :queries]


def _check_shapes(name: str, outputs: Shaped[np.ndarray, "*shape"] | MappedAnswers, labels: np.ndarray) -> None:
    """Raises ValueError where shapes disagree or a label is out of range."""
    hard = name in ("predictions", "signals")
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


def _shared(signal: np.ndarray) -> np.ndarray:
    """Read-only, since all attacks share one view."""
    signal.flags.writeable = False
    return signal


def answer_features(view: Outputs, model: int, records: Places = slice(None)) -> Float[np.ndarray, "n d"]:
    """Log-odds, correctness, modified entropy, and the logarithms of a model's largest probabilities, sorted.

    Sorting makes the answers of all classes alike (Shokri et al. 2017, section V; Salem et al. 2019, section III).

    Args:
        view: the answers.
        model: whose.
        records: about which records.
    """
    probabilities = np.sort(view.probabilities_of(model, 0, records), axis=1)[:, -TOP_PROBABILITIES:]
    signals_of = (view.log_odds, view.correct, view.modified_entropy)
    return np.column_stack(
        [
            *(signal[model, records, 0] for signal in signals_of),
            np.log(np.maximum(probabilities, MIN_PROBABILITY)),
        ]
    )
