"""A view that hands out no more than an attack declared, and counts queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Real, Shaped

from palisade.attacks.parts.answers import Places
from palisade.attacks.parts.outputs import ANSWER_FIELDS, Outputs
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View

SCORE_SIGNALS = (
    *("log_odds", "standardized_log_odds", "loss", "entropy", "modified_entropy"),
    *("log_confidence", "probabilities_of"),
)
SIGNALS_OF_QUERIES = ("log_odds", "standardized_log_odds", "loss", "entropy", "modified_entropy", "correct")
DECLARED_PARTS: Mapping[str, tuple[Callable[[ThreatModel], bool], tuple[str, ...]]] = {
    "outputs=logits": (lambda threat: threat.outputs == "logits", ("logits", "population_logits")),
    "outputs": (
        lambda threat: threat.outputs != "label",
        (*SCORE_SIGNALS, "probabilities", "population_probabilities"),
    ),
    "whole_answers": (
        lambda threat: threat.whole_answers or threat.outputs == "logits",
        ("probabilities_of", "logits", "probabilities", "population_logits", "population_probabilities"),
    ),
    "temperature": (lambda threat: threat.temperature is not None, ("log_confidence",)),
    "label": (
        lambda threat: threat.label,
        ("labels", "correct", "log_odds", "standardized_log_odds", "loss", "modified_entropy", "log_confidence"),
    ),
    "shadows or known_members": (
        lambda threat: threat.knows_defense or threat.known_members,
        ("membership", "others", "left_out", "left_out_of", "moments", "parts", "balanced", "groups"),
    ),
    "population": (
        lambda threat: threat.population,
        (
            *("population", "population_features", "population_labels", "population_tokens"),
            *("population_logits", "population_probabilities", "population_predictions"),
        ),
    ),
    "features": (lambda threat: threat.features, ("features", "population_features")),
    "shadow_features": (lambda threat: threat.shadow_features, ("shadow_features",)),
    "free_queries": (lambda threat: threat.free_queries, ("query", "query_label")),
    "further_shadows": (lambda threat: threat.further_shadows > 0, ("further_shadows",)),
    "unguarded_shadows": (lambda threat: threat.unguarded_shadows, ("unguarded_logits",)),
    "tokens": (lambda threat: bool(threat.tokens), ("tokens", "population_tokens")),
    "gradients": (lambda threat: threat.gradients, ("gradient_norms", "activation_norms", "alignment")),
    "checkpoints": (lambda threat: threat.checkpoints, ("trajectory", "alignment")),
}
"""Declarations by which the parts of a view may be read."""
PRIVATE_PARTS = ("to_first", "altered", "signals", "population_signals")
"""Parts of a view that are no attack's to read."""


class Granted(View):
    """A view through an attack's declaration: reading what was not declared raises, and queries are counted.

    Args:
        view: all that there is.
        threat: what was declared.
    """

    def __init__(self, view: View, threat: ThreatModel) -> None:
        object.__setattr__(self, "meter", Meter(view, threat))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in ("meter", "predict"):
            return object.__getattribute__(self, name)
        return self.meter.read(name)


class GrantedPopulation(Outputs):
    """The answers on the attacker's own records, whose labels it knows, at the level that was declared."""

    def __init__(self, population: Outputs, threat: ThreatModel) -> None:
        object.__setattr__(self, "meter", Meter(population, replace(threat, label=True)))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name == "meter":
            return object.__getattribute__(self, name)
        return self.meter.read(name)


class Meter:
    """Access to the parts of an attack's view, with a count of the queries that they took.

    Args:
        outputs: all that there is.
        threat: what was declared.
    """

    def __init__(self, outputs: Outputs, threat: ThreatModel) -> None:
        self.outputs, self.threat = outputs, threat
        self.handed = self.asked = 0

    def read(self, name: str) -> Any:
        """A part by its name.

        Raises:
            ValueError: if it was not declared.
        """
        for needed, (declares, names) in DECLARED_PARTS.items():
            if name in names and not declares(self.threat):
                raise ValueError(f"view.{name} is beyond the attack's threat model; declare {needed} or do without it")
        if name.startswith("_") or name in PRIVATE_PARTS:
            raise ValueError(f"view.{name} is private to the view; use its signals")
        if name in SIGNALS_OF_QUERIES or name in ANSWER_FIELDS:
            cut = self._cut
            if name in SIGNALS_OF_QUERIES or getattr(cut, name) is not None:
                self.handed = max(self.handed, cut.queries)
            return getattr(cut, name)
        value = getattr(self.outputs, name)
        if name in ("tokens", "population_tokens") and value is not None:
            copies = value.neighbor_losses if "neighbors" in self.threat.tokens else None
            self.handed = max(self.handed, 1 if copies is None else 1 + copies.shape[-1])
            return value.declared(self.threat.tokens, self.threat.base)
        if name == "population" and value is not None:
            return GrantedPopulation(value, self.threat)
        counted = {
            "log_confidence": self._log_confidence,
            "probabilities_of": self._probabilities_of,
            "query": self._query,
            "query_label": self._query,
        }
        return counted.get(name, value)

    @property
    def queries(self) -> float:
        """Queries a record, on average over models and records."""
        outputs = self.outputs
        return float(self.handed + self.asked / (outputs.models * outputs.records)) or 1.0

    @property
    def _cut(self) -> Outputs:
        """The declared queries alone: no signal of any other is computed."""
        return self.outputs.to_first(self.threat.queries)

    def _log_confidence(self, temperature: float = 1.0) -> Float[np.ndarray, "models records queries"]:
        if temperature != self.threat.temperature:
            raise ValueError(
                f"temperature={temperature}: expected the declared temperature={self.threat.temperature}; declare it"
            )
        self.handed = max(self.handed, self._cut.queries)
        return self._cut.log_confidence(temperature)

    def _probabilities_of(
        self, model: int, query: int = 0, records: Places = slice(None)
    ) -> Float[np.ndarray, "n classes"]:
        if self.threat.queries is not None and query >= self.threat.queries:
            raise ValueError(f"query={query}: expected below the declared queries={self.threat.queries}; declare more")
        self.handed = max(self.handed, query + 1)
        return self.outputs.probabilities_of(model, query, records)

    def _query(self, model: int, x: Real[np.ndarray, "n *shape"]) -> Shaped[np.ndarray, "n *classes"]:
        assert isinstance(self.outputs, View) and self.outputs.query is not None
        self.asked += len(x)
        if self.threat.outputs != "label":
            return np.asarray(self.outputs.query(model, x))
        answers = np.asarray((self.outputs.query_label or self.outputs.query)(model, x))
        return answers.argmax(axis=-1) if answers.ndim > 1 else answers
