"""View of an attacker: the answers of a fleet on the audited records, and what else the setting grants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from palisade.attacks.parts.outputs import Outputs

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
            audited records, logits, probabilities or predictions.
        population_probabilities: likewise.
        population_predictions: likewise.
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
        groups: models of one group are left out together: of two models with complementary membership, one gives the
            other's membership away. Default: each model by itself.
        persons: records of one person share a fate, hence are never used to find each other out. Default: each record
            by itself.

    Raises:
        ValueError: if shapes disagree, a label is out of range, or an output is NaN, infinite or no probability.
    """

    membership: Bool[np.ndarray, "models records"]
    population_logits: Float[np.ndarray, "models population *queries classes"] | None = None
    population_probabilities: Float[np.ndarray, "models population *queries classes"] | None = None
    population_predictions: Int[np.ndarray, "models population *queries"] | None = None
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
    unguarded_logits: Float[np.ndarray, "models records classes"] | None = None
    groups: Int[np.ndarray, "models"] | None = None
    persons: Int[np.ndarray, "records"] | None = None

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
        self._check_population()

    def _check_population(self) -> None:
        answers = [self.population_logits, self.population_probabilities, self.population_predictions]
        if (self.population_labels is None) != all(answer is None for answer in answers):
            raise ValueError("population answers and population_labels belong together; pass both or none")
        if (population := self.population) is None:
            if self.population_features is not None:
                raise ValueError(
                    "population_features: expected with answers on the population; pass population_labels and answers"
                )
            return
        if (population.models, population.outputs) != (self.models, self.outputs):
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
        even = self.membership.sum(axis=0) == self._usual_count
        counts = self._shadows_inside[:, even]
        return bool(
            0 < self._usual_count < self.models and even.mean() >= BALANCED_SHARE and np.ptp(counts, axis=1).any()
        )

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
        inside, usual = self._shadows_inside, self._usual_count
        even = self.membership.sum(axis=0) == usual
        if not self.balanced or (usual - inside[:, even] > 1).any():
            return None
        place = np.random.default_rng(BALANCING_SEED).random((self.models, self.records), dtype=np.float32)[
            :, self._unit
        ]
        left_out = np.full(inside.shape, -1, dtype=np.int32)
        for target in range(self.models):
            more_inside, more_outside = inside[target] == usual, inside[target] == usual - 1
            side = np.where(more_inside, self.membership, ~self.membership) & (more_inside | more_outside)
            candidates = self.others[target][:, None] & side
            first = np.where(candidates, place, -1.0).argmax(axis=0)
            left_out[target] = np.where(candidates.any(axis=0), first, -1)
        left_out.flags.writeable = False
        return left_out

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
    def _usual_count(self) -> int:
        """The number of models that most records are in."""
        return int(np.bincount(self.membership.sum(axis=0)).argmax())

    @cached_property
    def _shadows_inside(self) -> Int[np.ndarray, "models records"]:
        """Number of shadows of each target that were trained on each record."""
        inside: np.ndarray = np.rint(self.others.astype(np.float32) @ self.membership).astype(np.int32)
        return inside

    @cached_property
    def _unit(self) -> Int[np.ndarray, "records"]:
        """A number for each person, or for each record."""
        units = np.arange(self.records) if self.persons is None else np.unique(self.persons, return_inverse=True)[1]
        return np.asarray(units)

    def predict(self, model: int, x: Real[np.ndarray, "n *shape"]) -> Int[np.ndarray, "n"]:
        """The classes that a model predicts for inputs of the attacker's choice."""
        assert self.query is not None
        answers: Shaped[np.ndarray, "..."] = self.query(model, x)
        return answers if answers.ndim == 1 else answers.argmax(axis=-1)


def is_vectors(records: Real[np.ndarray, "records *shape"]) -> bool:
    """True for vectors of numbers: no images, and no texts of token numbers."""
    return records.ndim == 2 and records.dtype.kind == "f"
