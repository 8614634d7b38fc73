"""What an attacker sees (`View`), what an attack needs (`ThreatModel`), and what all attacks share (`Attack`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from attacks.signals import each_query, log_odds_of_logits, log_odds_of_probabilities

Outputs = Literal["label", "probabilities", "logits"]
Shadows = Literal["none", "offline", "online"]
Access = Literal["label_only", "black_box", "white_box"]

LEVELS: tuple[Outputs, ...] = ("label", "probabilities", "logits")  # from little to much


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """All that an attacker is granted: the outputs of a fleet on the audited records.

    Exactly one of `logits`, `probabilities` and `predictions` is given; signals are computed from it alone, in float64.
    Every model is a target once and a shadow for the others otherwise. Query 0 is the record itself, further queries
    are its perturbed copies. Arrays may be memory-mapped: outputs are read one model at a time.

    Args:
        labels: the true class of each record, 0 to classes − 1.
        membership: which model was trained on which record.
        logits: as released, usually float32.
        probabilities: as released, each in [0, 1]; they need not sum to 1.
        predictions: the predicted class, where nothing else is released.
        population_logits: outputs on the attacker's own records, on which no model was trained.
        population_probabilities: the same where probabilities are released.
        population_labels: the true classes of those records.
        groups: models of one group are left out together: of two models with complementary membership, one gives the
            other's membership away. Default: each model by itself.

    Raises:
        ValueError: if shapes disagree, a label is out of range, or an output is NaN, infinite or no probability.
    """

    labels: Int[np.ndarray, "records"]
    membership: Bool[np.ndarray, "models records"]
    logits: Float[np.ndarray, "models records *queries classes"] | None = None
    probabilities: Float[np.ndarray, "models records *queries classes"] | None = None
    predictions: Int[np.ndarray, "models records *queries"] | None = None
    population_logits: Float[np.ndarray, "models population *queries classes"] | None = None
    population_probabilities: Float[np.ndarray, "models population *queries classes"] | None = None
    population_labels: Int[np.ndarray, "population"] | None = None
    groups: Int[np.ndarray, "models"] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("logits", "probabilities", "predictions") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"outputs={given}; pass exactly one of logits, probabilities and predictions")
        if self.membership.ndim != 2 or self.membership.dtype != np.bool_:
            held = f"{self.membership.dtype} of shape {self.membership.shape}"
            raise ValueError(f"membership={held}; pass a Boolean array (models, records)")
        if self.groups is not None and self.groups.shape != (self.models,):
            raise ValueError(f"groups.shape={self.groups.shape}; pass one group for each of the {self.models} models")
        _check(given[0], getattr(self, given[0]), "labels", self.labels, self.models, self.records)
        for name in ("population_logits", "population_probabilities"):
            if (outputs := getattr(self, name)) is not None:
                if self.population_labels is None:
                    raise ValueError(f"population_labels=None; {name} needs the true classes too, pass both")
                size = len(self.population_labels)
                _check(name, outputs, "population_labels", self.population_labels, self.models, size)

    @property
    def models(self) -> int:
        return int(self.membership.shape[0])

    @property
    def records(self) -> int:
        return int(self.membership.shape[1])

    @property
    def queries(self) -> int:
        return int(self._released.shape[2])

    @property
    def outputs(self) -> Outputs:
        """The level of what is released."""
        return "logits" if self.logits is not None else "label" if self.probabilities is None else "probabilities"

    @property
    def _released(self) -> Shaped[np.ndarray, "models records queries *classes"]:
        if self.predictions is not None:
            return self.predictions.reshape(self.models, self.records, -1)
        scores = self.probabilities if self.logits is None else self.logits
        assert scores is not None
        return scores if scores.ndim == 4 else scores[:, :, None]

    @cached_property
    def log_odds(self) -> Float[np.ndarray, "models records queries"]:
        """φ: how much the model prefers the true class to all others, on an unbounded, nearly normal scale.

        Raises:
            ValueError: if only labels are released.
        """
        if self.outputs == "label":
            raise ValueError("log_odds need logits or probabilities; only labels are released")
        signal = log_odds_of_logits if self.outputs == "logits" else log_odds_of_probabilities
        return _shared(each_query(signal, self._released, self.labels))

    @cached_property
    def loss(self) -> Float[np.ndarray, "models records queries"]:
        """Cross-entropy in nats, log(1 + e^−φ)."""
        return _shared(np.logaddexp(0.0, -self.log_odds))

    @cached_property
    def correct(self) -> Bool[np.ndarray, "models records queries"]:
        """Whether the predicted class is the true one."""
        predicted = self._released if self.outputs == "label" else self._released.argmax(axis=-1)
        return _shared(predicted == self.labels[:, None])

    @cached_property
    def others(self) -> Bool[np.ndarray, "models models"]:
        """Row k marks the shadows of target k: all models but those of its own group."""
        groups = np.arange(self.models) if self.groups is None else self.groups
        return _shared(groups[:, None] != groups)


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What an attack needs. On a view that grants less it is skipped with the reason, never silently dropped.

    Args:
        outputs: the least output level, "label" < "probabilities" < "logits".
        label: whether the attacker must know a record's true class.
        shadows: other models of the fleet: "none", "offline" (that did not train on the record) or "online" (both).
        population: whether the attacker needs records of its own, on which no model was trained.
        weights: whether the attacker holds the weights.
        queries: the least number of queries a record.
    """

    outputs: Outputs = "label"
    label: bool = True
    shadows: Shadows = "none"
    population: bool = False
    weights: bool = False
    queries: int = 1

    @property
    def access(self) -> Access:
        if self.weights:
            return "white_box"
        return "label_only" if self.outputs == "label" else "black_box"

    def missing(self, view: View) -> str | None:
        """The reason why an attack with these needs is skipped on this view, None if it can run."""
        if self.weights:
            return "needs the weights; only outputs are released"
        if (least := LEVELS.index(self.outputs)) > LEVELS.index(view.outputs):
            released = "labels" if view.outputs == "label" else view.outputs
            return f"needs {' or '.join(reversed(LEVELS[least:]))}; only {released} are released"
        if self.population and view.population_labels is None:
            return "needs population records; the split has none"
        if self.queries > view.queries:
            return f"needs queries={self.queries} a record; the view holds {view.queries}"
        return None if self.shadows == "none" else self._missing_shadows(view)

    def _missing_shadows(self, view: View) -> str | None:
        others, members = view.others.astype(np.float32), view.membership
        scored = others @ ~members > 0
        if self.shadows == "online":
            scored &= others @ members > 0
        if scored[members].any() and scored[~members].any():
            return None
        needed = "did not train" if self.shadows == "offline" else "did and models that did not train"
        fixed = view.models > 1 and bool((members == members[0]).all())
        groups = view.models if view.groups is None else len(np.unique(view.groups))
        why = "the split is fixed" if fixed else f"models={view.models} in groups={groups} are too few, train more"
        return f"needs models that {needed} on a record; {why}"


class Attack(ABC):
    """A membership inference attack: scores every record for every model, higher = more likely a member.

    An attack file holds only its idea: a `name`, a `threat` and `_score`. All models are targets at once; a target's
    own membership never enters its scores.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def threat(self) -> ThreatModel: ...

    @abstractmethod
    def _score(self, view: View) -> Float[np.ndarray, "models records"]: ...

    def missing(self, view: View) -> str | None:
        """The reason why this attack is skipped on this view, None if it can run."""
        return self.threat.missing(view)

    def score(self, view: View) -> Float[np.ndarray, "models records"]:
        """Scores in float64, NaN where no score exists.

        Raises:
            ValueError: if the view grants less than the attack needs (`missing` tells beforehand), or if the attack
                breaks its contract by another shape than (models, records).
        """
        if (reason := self.missing(view)) is not None:
            raise ValueError(f"attack={self.name} {reason}")
        scores = np.asarray(self._score(view), dtype=np.float64)
        if scores.shape != view.membership.shape:
            raise ValueError(f"attack={self.name} returned shape {scores.shape}; expected {view.membership.shape}")
        return scores


def _check(
    name: str, outputs: Shaped[np.ndarray, "*shape"], labels_name: str, labels: np.ndarray, models: int, records: int
) -> None:
    """Shapes, the range of labels, and values, one model at a time."""
    hard = name == "predictions"
    if outputs.shape[:2] != (models, records) or outputs.ndim not in ((2, 3) if hard else (3, 4)) or 0 in outputs.shape:
        expected = f"({models}, {records}[, queries]{'' if hard else ', classes'})"
        raise ValueError(
            f"{name}.shape={outputs.shape} disagrees with membership or {labels_name}; expected {expected}"
        )
    if labels.shape != (records,) or not np.issubdtype(labels.dtype, np.integer):
        held = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{labels_name}={held}; pass one integer class for each of the {records} records")
    classes = None if hard else outputs.shape[-1]
    if classes == 1:
        raise ValueError(f"{name} has classes=1; a classifier has at least 2, give a score for each")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        allowed = "0 and above" if classes is None else f"0..{classes - 1}"
        raise ValueError(f"{labels_name}={labels.min()}..{labels.max()}; expected {allowed}, number the classes from 0")
    for model, block in enumerate(outputs):
        if not np.isfinite(block).all():
            raise ValueError(f"{name} of model={model} hold NaN or infinity; leave out models that diverged")
        if name.endswith("probabilities") and (block.min() < 0 or block.max() > 1 + 1e-5):
            raise ValueError(
                f"{name} of model={model} span {block.min()}..{block.max()}; expected 0..1, or pass logits"
            )


def _shared(signal: np.ndarray) -> np.ndarray:
    """Read-only, since all attacks share one view."""
    signal.flags.writeable = False
    return signal
