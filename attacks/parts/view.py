"""View of an attacker: the answers of a fleet on the audited records, and what else the setting grants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.leave_one_out import Moments, counts, leave_one_out
from palisade.attacks.parts.outputs import ANSWER_FIELDS, Outputs
from palisade.attacks.parts.tokens import TokenAnswers

BALANCING_SEED = 0
"""Seed of the choice of shadows that are left out of a balanced fleet, known to everybody."""
LEAST_BALANCED = 20
"""Records, or persons, of which chance does not put nine in ten into as many models."""
BALANCED_SHARE = 0.9
"""Share of the records in one number of models from which on that number is no chance."""
Parts = list[tuple[Int[np.ndarray, "asked"], Int[np.ndarray, "known"]]]
"""Records that are scored, each time with those that may teach how."""
WHITE_BOX = ("gradient_norms", "activation_norms", "alignment", "trajectory")


@dataclass(frozen=True, kw_only=True, eq=False)
class View(Outputs):
    """The answers of a fleet on the audited records, with what else an attacker may hold.

    Every model is a target once and a shadow for the others otherwise.

    Args:
        membership: which model was trained on which record.
        population_logits: answers on the attacker's own records, on which no model was trained; as those on the
            audited records, logits, probabilities, predictions or signals.
        population_probabilities: likewise.
        population_predictions: likewise.
        population_signals: likewise.
        population_labels: the true classes of those records.
        features: the audited records themselves, as the models take them.
        population_features: the attacker's own records.
        shadow_features: what the last hidden layer of the models with the lowest numbers gives for each audited record.
            A target's own is no shadow's.
        query: `query(model, x)` asks a model about inputs of the attacker's choice, at the level of what is released:
            (n, classes), or (n,) labels.
        query_label: `query` for the predicted class alone, for those who look at nothing else: whole answers may take a
            guard long.
        gradient_norms: ‖∂loss/∂θ‖ of each record in each layer.
        activation_norms: the norm of each layer's output.
        alignment: inner product of each record's gradient with the path from the initial to the final weights; high
            where training moved the weights as this record would have them.
        trajectory: the loss of each record at the kept checkpoints, the last one at the end of training.
        further_shadows: `further_shadows(target, inside, outside, shadows)` trains so many models by the target's own
            recipe, all of them on the records `inside`, none on those `outside`, on each of the rest by a coin. Their
            view of the rest comes back, the target itself before them as a model without members.
        unguarded_logits: what the models answer without the guard that stands before them. A shadow's belong to the
            attacker who trained it; the target's own are nobody's to see.
        tokens: per-token answers of language models about the audited records.
        population_tokens: likewise about the attacker's own records.
        groups: models of one group are left out together: of two models with complementary membership, one gives the
            other's membership away. Default: each model by itself.
        persons: records of one person share a fate, hence are never used to find each other out. Default: each record
            by itself.
        weights_removed: whether of the models only the answers here are left, or what was saved of them.

    Raises:
        ValueError: if shapes disagree, a label is out of range, or an output is NaN, infinite or no probability.
    """

    membership: Bool[np.ndarray, "models records"]
    population_logits: Float[np.ndarray, "models population *queries classes"] | MappedAnswers | None = None
    population_probabilities: Float[np.ndarray, "models population *queries classes"] | MappedAnswers | None = None
    population_predictions: Int[np.ndarray, "models population *queries"] | MappedAnswers | None = None
    population_signals: Shaped[np.ndarray, "models population *queries"] | MappedAnswers | None = None
    population_labels: Int[np.ndarray, "population"] | None = None
    features: Real[np.ndarray, "records *shape"] | None = None
    population_features: Real[np.ndarray, "population *shape"] | None = None
    shadow_features: Float[np.ndarray, "feature_models records hidden"] | None = None
    query: Callable[[int, np.ndarray], np.ndarray] | None = None
    query_label: Callable[[int, np.ndarray], np.ndarray] | None = None
    gradient_norms: Float[np.ndarray, "models records layers"] | None = None
    activation_norms: Float[np.ndarray, "models records layers"] | None = None
    alignment: Float[np.ndarray, "models records"] | None = None
    trajectory: Float[np.ndarray, "models records checkpoints"] | None = None
    further_shadows: Callable[[int, np.ndarray, np.ndarray, int], View] | None = None
    unguarded_logits: Float[np.ndarray, "models records classes"] | MappedAnswers | None = None
    tokens: TokenAnswers | None = None
    population_tokens: TokenAnswers | None = None
    groups: Int[np.ndarray, "models"] | None = None
    persons: Int[np.ndarray, "records"] | None = None
    weights_removed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.membership.ndim != 2 or self.membership.dtype != np.bool_:
            held = f"{self.membership.dtype} of shape {self.membership.shape}"
            raise ValueError(f"membership={held}: expected a Boolean array (models, records); pass such an array")
        expected = (self.models, self.records)
        for name in ("membership", "unguarded_logits", *WHITE_BOX):
            if (array := getattr(self, name)) is not None and array.shape[:2] != expected:
                raise ValueError(
                    f"{name}.shape={array.shape}: expected {expected} first, as in the outputs; pass one per model and"
                    " record"
                )
        for name, count, noun in (
            ("groups", self.models, "models"),
            ("persons", self.records, "records"),
            ("features", self.records, "records"),
        ):
            if (array := getattr(self, name)) is not None and len(array) != count:
                raise ValueError(
                    f"{name}.shape={array.shape}: expected one of the {name} for each of the {count} {noun}; pass that"
                    " many"
                )
        if (hidden := self.shadow_features) is not None and (hidden.ndim != 3 or hidden.shape[1] != self.records):
            raise ValueError(
                f"shadow_features.shape={hidden.shape}: expected (models, {self.records} records, hidden); pass one row"
                " per record"
            )
        self._check_tokens()
        self._check_population()

    def _check_tokens(self) -> None:
        records = 0 if self.population_labels is None else len(self.population_labels)
        for name, count in (("tokens", self.records), ("population_tokens", records)):
            tokens = getattr(self, name)
            if tokens is not None and (tokens.models, tokens.records) != (self.models, count):
                raise ValueError(
                    f"{name}={tokens.models} models and {tokens.records} records: expected {self.models} and {count},"
                    " as in the outputs; pass one per model and record"
                )

    def _check_population(self) -> None:
        answers = [getattr(self, f"population_{name}") for name in ANSWER_FIELDS]
        if (self.population_labels is None) != all(answer is None for answer in answers):
            raise ValueError("population answers and population_labels belong together; pass both or none")
        if (population := self.population) is None:
            if self.population_features is not None:
                raise ValueError(
                    "population_features: expected with answers on the population; pass population_labels and answers"
                )
            return
        alike = (population.outputs, population.whole_answers) == (self.outputs, self.whole_answers)
        if population.models != self.models or not alike:
            held = f"{population.outputs} of {population.models} models"
            raise ValueError(
                f"population={held}: expected {self.outputs} of {self.models} models; pass the same kind as on the"
                " records"
            )
        if self.population_features is not None and len(self.population_features) != population.records:
            held = str(self.population_features.shape)
            raise ValueError(
                f"population_features.shape={held}: expected {population.records} rows; pass one for each population"
                " label"
            )

    @cached_property
    def population(self) -> Outputs | None:
        """The answers on the attacker's own records, on which no model was trained."""
        if self.population_labels is None:
            return None
        return Outputs(
            labels=self.population_labels,
            logits=self.population_logits,
            probabilities=self.population_probabilities,
            predictions=self.population_predictions,
            signals=self.population_signals,
            top_k=self.top_k,
        )

    @property
    def vectors(self) -> bool:
        """True where records are vectors of numbers: no images, and no texts of token numbers."""
        return self.features is not None and is_vectors(self.features)

    @cached_property
    def others(self) -> Bool[np.ndarray, "models models"]:
        """Row k marks the shadows of target k: all models but those of its own group."""
        groups = np.arange(self.models) if self.groups is None else self.groups
        others: np.ndarray = groups[:, None] != groups
        others.flags.writeable = False
        return others

    @cached_property
    def balanced(self) -> bool:
        """True where nearly all records are in one number of models: the number of shadows reveals membership.

        Not where groups that are left out whole hold each record in as many models, such as complementary pairs.
        """
        if self.records == 0 or self._unit.max() + 1 < LEAST_BALANCED:
            return False
        if not 0 < self._usual_count < self.models or self._even.mean() < BALANCED_SHARE:
            return False
        least, most = np.full(self.models, self.models), np.zeros(self.models, dtype=int)
        for block in self.blocks():
            inside = self._shadows_inside(block)[:, self._even[block]]
            least = np.minimum(least, inside.min(axis=1, initial=self.models))
            most = np.maximum(most, inside.max(axis=1, initial=0))
        return bool((most > least).any())

    @cached_property
    def left_out(self) -> Int[np.ndarray, "models records"] | None:
        """For each target and record the model that is no shadow beside the target's own group, −1 where all are.

        Where records are in exactly c models, a non-member of the target is in c of its shadows, a member in c − 1:
        their number, hence every spread and every pooled threshold, gives membership away. So one shadow is left out of
        the side that has one more than it would have otherwise, drawn by a public seed, the same for all records of a
        person. Then c − 1 are left inside and models − c − 1 outside, whoever the target was trained on. A record in
        another number of models keeps all shadows unless their number is that of the others. None: nobody is left out,
        as nothing is balanced, or as groups are that no single model evens out.
        """
        usual = self._usual_count
        if not self.balanced:
            return None
        if any((usual - self._shadows_inside(block)[:, self._even[block]] > 1).any() for block in self.blocks()):
            return None
        rng = np.random.default_rng(BALANCING_SEED)
        place = room((self.models, self.records), np.float32)
        for own in place:
            own[:] = rng.random(self.records, dtype=np.float32)
        left_out = room(self.membership.shape, np.int32)
        for block in self.blocks():
            members, inside = self.membership[:, block], self._shadows_inside(block)
            chances = place[:, self._unit[block]]
            first_inside, first_outside = (self._first(np.where(side, chances, -1.0)) for side in (members, ~members))
            left_out[:, block] = np.where(inside == usual - 1, first_outside, -1)
            np.copyto(left_out[:, block], first_inside, where=inside == usual)
        left_out.flags.writeable = False
        return left_out

    def _first(self, chances: Float[np.ndarray, "models block"]) -> Int[np.ndarray, "models block"]:
        """For each target the model of the largest chance that is not of its own group; −1 where all are below 0."""
        order = np.argsort(-chances, axis=0, kind="stable").astype(np.int32)
        group = np.argmin(self.others, axis=1)  # known by its first model
        first = np.full(chances.shape, -1, dtype=np.int32)
        for candidate in order[: np.bincount(group).max() + 1]:
            possible = np.take_along_axis(chances, candidate[None], axis=0)[0] >= 0
            free = (first < 0) & (group[candidate] != group[:, None]) & possible
            first = np.where(free, candidate, first)
        return first

    @cached_property
    def parts(self) -> Parts:
        """Records to score, each time with the records to fit on: all by all, of a balanced fleet half by half.

        A classifier fitted on a record's shadows would learn the opposite of the target's membership there. Persons
        stay whole.
        """
        every = np.arange(self.records)
        if not self.balanced:
            return [(every, every)]
        half = np.random.default_rng(BALANCING_SEED).permutation(self._unit.max() + 1)[self._unit] % 2
        return [(np.flatnonzero(half == one), np.flatnonzero(half != one)) for one in (0, 1)]

    @cached_property
    def _models_inside(self) -> Int[np.ndarray, "records"]:
        """Number of models that were trained on each record."""
        return np.asarray(self.membership.sum(axis=0))

    @cached_property
    def _usual_count(self) -> int:
        """The number of models that most records are in."""
        return int(np.bincount(self._models_inside).argmax())

    @cached_property
    def _even(self) -> Bool[np.ndarray, "records"]:
        """The records in as many models as most."""
        return np.asarray(self._models_inside == self._usual_count)

    def _shadows_inside(self, block: slice) -> Int[np.ndarray, "models block"]:
        """Number of shadows of each target that were trained on each record of a block."""
        return np.asarray(counts(self.membership[:, block], self.others).astype(np.int32))

    @cached_property
    def _unit(self) -> Int[np.ndarray, "records"]:
        """A number for each person, or for each record."""
        units = np.arange(self.records) if self.persons is None else np.unique(self.persons, return_inverse=True)[1]
        return np.asarray(units)

    def left_out_of(self, block: slice) -> Int[np.ndarray, "models block"] | None:
        """`left_out` on the records of a block."""
        return None if self.left_out is None else self.left_out[:, block]

    def moments(self, signal: Float[np.ndarray, "models block"], block: slice, *, inside: bool) -> Moments:
        """Moments of a signal on a block of records over each target's shadows.

        Args:
            signal: on the records of the block.
            block: which records these are.
            inside: whether of shadows that trained on a record, or of those that did not.
        """
        members = self.membership[:, block]
        return leave_one_out(signal, members if inside else ~members, self.others, self.left_out_of(block))

    def predict(self, model: int, x: Real[np.ndarray, "n *shape"]) -> Int[np.ndarray, "n"]:
        """The classes that a model predicts for inputs of the attacker's choice."""
        assert self.query is not None
        answers: Shaped[np.ndarray, "..."] = self.query(model, x)
        return answers if answers.ndim == 1 else answers.argmax(axis=-1)


def is_vectors(records: Real[np.ndarray, "records *shape"]) -> bool:
    """True for vectors of numbers: no images, and no texts of token numbers."""
    return records.ndim == 2 and records.dtype.kind == "f"
