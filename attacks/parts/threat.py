"""Threat models: the needs of an attack, declared before it sees anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from palisade.attacks.parts.leave_one_out import counts
from palisade.attacks.parts.outputs import ANSWER_LEVELS, Level
from palisade.attacks.parts.tokens import TokenPart
from palisade.attacks.parts.view import View

Shadows = Literal["none", "offline", "online"]
Access = Literal["label_only", "black_box", "white_box"]
LACKING_WORDS = {
    "means": "the mean log-probability over the vocabulary at every token; the answers hold only the texts' own tokens",
    "variances": "the spread of log-probabilities at every token; the answers hold only the texts' own tokens",
    "greedy": "the most likely token at every position; the answers hold only the texts' own tokens",
    "zlib_bytes": "the texts themselves; the view holds only answers",
    "blocked": "a guard that refuses tokens; set guard=memfree",
    "neighbor_losses": "answers about edited copies of the texts; the view holds none",
}
"""Reasons why an attack on language models is skipped, by the field that is not there."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Needs of an attack. On a view that grants less it is skipped with the reason, never silently dropped.

    Args:
        outputs: the least output level, "label" < "top-k" < "probabilities" < "logits".
        label: whether the attacker must know a record's true class.
        shadows: other models of the fleet: "none", "offline" (that did not train on the record) or "online" (both).
            They are made by the very recipe of the target: such an attacker knows the defense.
        population: whether the attacker needs records of its own, on which no model was trained.
        known_members: whether it knows of some records whether the target was trained on them.
        features: whether it uses the records themselves, not only the answers to them.
        shadow_features: whether it describes records that are no vectors by the hidden layers of its shadows.
        free_queries: whether it asks about inputs of its own choice.
        queries: queries a record; None: as many as the view holds.
        whole_answers: whether it looks at the scores of all classes, not only at signals that follow from them; who
            needs logits does.
        temperature: of the softmax at which it reads log p_y; None: it reads none.
        unguarded_shadows: whether it looks at its shadows without the guard that stands before them.
        one_class: whether it looks at the answer for one class a record; a text has a class at every position.
        tokens: parts of the per-token answers of language models that it looks at.
        base: whether it also looks at them under the public model that training began with.
        gradients: whether it holds the weights and with them gradients and activations.
        checkpoints: whether it holds models from before the end of training.
        further_shadows: how many more models it trains by the target's recipe, with memberships of its choice.
        independent_membership: whether it builds on memberships that it infers, which counting shadows would mislead.
    """

    outputs: Level = "label"
    label: bool = True
    shadows: Shadows = "none"
    population: bool = False
    known_members: bool = False
    features: bool = False
    shadow_features: bool = False
    free_queries: bool = False
    queries: int | None = 1
    whole_answers: bool = False
    temperature: float | None = None
    unguarded_shadows: bool = False
    one_class: bool = False
    tokens: tuple[TokenPart, ...] = ()
    base: bool = False
    gradients: bool = False
    checkpoints: bool = False
    further_shadows: int = 0
    independent_membership: bool = False

    @property
    def weights(self) -> bool:
        """Need of the model's weights, now or from before the end of training."""
        return self.gradients or self.checkpoints

    @property
    def knows_defense(self) -> bool:
        """Knowledge of the defense, which shadows made by the target's recipe imply."""
        return self.shadows != "none"

    @property
    def access(self) -> Access:
        """The least access to the model that grants all this."""
        if self.weights:
            return "white_box"
        return "label_only" if self.outputs == "label" else "black_box"

    def describe(self) -> str:
        """Summary in a few words, such as `probabilities, true label, shadows (IN and OUT)`."""
        shadows = {"none": "", "offline": "shadows (OUT)", "online": "shadows (IN and OUT)"}[self.shadows]
        free = "queries of its choice (to shadows too)" if self.knows_defense else "queries of its choice"
        words = {
            "predicted label" if self.outputs == "label" else self.outputs: not self.weights,
            "a probability for every token": bool(self.tokens),
            "base model": self.base,
            "weights": self.gradients,
            "checkpoints": self.checkpoints,
            "true label": self.label,
            shadows: self.knows_defense,
            "shadows without guard": self.unguarded_shadows,
            "population": self.population,
            "known members": self.known_members,
            "records": self.features,
            free: self.free_queries,
            f"{self.further_shadows} further shadows": self.further_shadows > 0,
        }
        return ", ".join(word for word, needed in words.items() if needed)

    def missing(self, view: View) -> str | None:
        """The reason why an attack with these needs is skipped on this view, None if it can run."""
        return (
            self._missing_tokens(view)
            or self._missing_access(view)
            or self._missing_records(view)
            or self._missing_queries(view)
            or self._missing_further_shadows(view)
            or self._missing_shadows(view)
        )

    def _missing_access(self, view: View) -> str | None:
        labels_left = view.weights_removed and self.outputs == view.outputs == "label"
        if (view.signals is not None or labels_left) and (reason := self._missing_of_signals(view)) is not None:
            return reason
        if self.gradients and view.gradient_norms is None:
            return "needs the weights; threat=white_box grants them"
        if self.checkpoints and view.trajectory is None:
            return "needs checkpoints; train with fleet.keep_checkpoints=9 and grant them with threat=white_box"
        if (least := ANSWER_LEVELS.index(self.outputs)) > ANSWER_LEVELS.index(view.outputs):
            released = "labels" if view.outputs == "label" else view.outputs
            return f"needs {' or '.join(reversed(ANSWER_LEVELS[least:]))}; only {released} are released"
        if self.unguarded_shadows and view.unguarded_logits is None:
            return "needs a guard to look behind; train the run again with guard=<name>"
        return None

    def _missing_tokens(self, view: View) -> str | None:
        if view.tokens is not None and (self.one_class or self.whole_answers or self.outputs == "logits"):
            return "needs a class for the whole record; a text has one at every position"
        absent = {
            "the last hidden layer of shadows": self.shadow_features,
            "to train further shadows": self.further_shadows > 0,
            "to query the models with inputs of its choice": self.free_queries,
        }
        if view.tokens is not None and (need := next((text for text, needed in absent.items() if needed), None)):
            return f"needs {need}, which has no form on texts yet"
        if not self.tokens:
            return None
        if view.tokens is None:
            return "needs a probability for every token; only language models give them"
        if self.population and view.population is not None and view.population_tokens is None:
            return "needs a probability for every token of the population"
        if (name := view.tokens.lacking(self.tokens, self.base)) is None:
            return None
        if name.startswith("base_") and view.tokens.base_log_probabilities is None:
            return (
                "needs the public model that training began with; network.base=<folder>, in audits base_model, names it"
            )
        return f"needs {LACKING_WORDS[name.removeprefix('base_')]}"

    def _missing_of_signals(self, view: View) -> str | None:
        """Needs that signals, which were saved in the place of weights and answers, do not meet."""
        needs = {
            "checkpoints; train with fleet.keep_checkpoints=9, fleet.keep=both and grant them with threat=white_box": (
                self.checkpoints
            ),
            "the weights; train with fleet.keep=both and grant them with threat=white_box": self.gradients,
            "whole answers; train with fleet.keep=both": self.whole_answers or self.outputs == "logits",
            "to train further shadows; train with fleet.keep=both": self.further_shadows > 0,
            "the last hidden layer of shadows; train with fleet.keep=both": self.shadow_features and not view.vectors,
            "to query the models with inputs of its choice; train with fleet.keep=both": self.free_queries,
        }
        if need := next((text for text, is_needed in needs.items() if is_needed), None):
            return f"needs {need}"
        if self.temperature is None or self.temperature in (view.temperatures or ()):
            return None
        listed = ",".join(f"{each:g}" for each in sorted({*(view.temperatures or ()), self.temperature}))
        return f"needs log p at temperature {self.temperature:g}; train with fleet.temperatures=[{listed}]"

    def _missing_records(self, view: View) -> str | None:
        if self.population and view.population is None:
            return "needs population records; the split has none, set split.population=0.1"
        if self.features and view.features is None:
            return "needs the records themselves; the view holds only answers"
        if self.shadow_features and view.shadow_features is None and not view.vectors:
            return "needs the last hidden layer of shadows; the view holds records that are no vectors without it"
        return None

    def _missing_queries(self, view: View) -> str | None:
        if self.free_queries and view.query is None:
            return "needs to query the models with inputs of its choice; the view holds only answers"
        if not self.free_queries and self.queries is not None and self.queries > view.queries:
            return f"needs queries={self.queries} a record; the view holds {view.queries}"
        return None

    def _missing_further_shadows(self, view: View) -> str | None:
        if self.further_shadows and view.further_shadows is None:
            return (
                "needs to train further shadows; evaluate a run with membership.how=bernoulli, without canaries and"
                " with one record a person"
            )
        return None

    def _missing_shadows(self, view: View) -> str | None:
        if self.shadows == "none":
            return None
        members = view.membership
        if self.independent_membership and view.balanced:
            return "needs memberships drawn independently; nearly every record is in one number of models"
        if view.balanced and view.left_out is None:
            return "needs shadows that do not give membership away; every record is in as many models, in such groups"
        if self._scores_both_sides(view):
            return None
        needed = "did not train" if self.shadows == "offline" else "did and models that did not train"
        fixed = view.models > 1 and bool((members == members[0]).all())
        groups = view.models if view.groups is None else len(np.unique(view.groups))
        named = "" if groups == view.models else f" in groups={groups}"
        why = "the split is fixed" if fixed else f"models={view.models}{named} are too few, train more"
        return f"needs models that {needed} on a record; {why}"

    def _scores_both_sides(self, view: View) -> bool:
        """True where there are shadows for a member and for a non-member."""
        both = np.zeros(2, dtype=bool)
        for block in view.blocks():
            members, left_out = view.membership[:, block], view.left_out_of(block)
            scored = counts(~members, view.others, left_out) > 0
            if self.shadows == "online":
                scored &= counts(members, view.others, left_out) > 0
            both |= [scored[members].any(), scored[~members].any()]
            if both.all():
                return True
        return False
