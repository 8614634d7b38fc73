"""Answers of a model on the records of an audit, and those of a shadow model that were saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Shaped

from palisade.attacks import Attack, Correctness, TokenAnswers, View
from palisade.attacks.parts.thresholds import Threshold, class_thresholds
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.metrics import Called, Estimate
from palisade.evaluation.statistics.roc import Roc
from palisade.evaluation.subjects import texts
from palisade.evaluation.subjects.answer_forms import class_scores, is_of_second_class
from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.saved_records import MIN_RECORDS_PER_SIDE, TOKEN_LOGPROBS, SavedRecords
from palisade.targets.guards import Level

ROUNDING_ERROR = 0.005
"""Largest change of a probability by rounding to two decimals; that of many classes adds up."""
SUM_TOLERANCE = 1e-3
"""Largest distance from 1 of sums that are taken for those of probabilities."""
SATURATED_PROBABILITY = 1 - 1e-6
"""Probabilities from here on are those of many records."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnsweredRecords:
    """Labeled records with a model's answers about them.

    Args:
        name: where they come from, for errors.
        labels: the true classes, from 0.
        level: `logits`, `probabilities` or `predictions`.
        answers: (records, classes) scores, or (records,) classes.
        features: the records as numbers, where they are known.
        persons: whose record each one is; None: each another person's.
        tokens: of one language model, where the records are texts; `answers` then tell texts apart, and features count
            their words.
    """

    name: str
    labels: Int64[np.ndarray, "records"]
    level: str
    answers: Shaped[np.ndarray, "records *classes"]
    features: Shaped[np.ndarray, "records ..."] | None = None
    persons: Shaped[np.ndarray, "records"] | None = None
    tokens: TokenAnswers | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def person_count(self) -> int:
        """Number of persons whose the records are; of each another one where nothing is said about persons."""
        return len(self) if self.persons is None else len(np.unique(self.persons))


def joined(one: AnsweredRecords, other: AnsweredRecords) -> AnsweredRecords:
    """The records of both, in this order.

    Raises:
        ValueError: if only one of them says whose its records are, or they say it in words and in numbers.
    """
    features, persons = None, None
    if one.features is not None and other.features is not None:
        features = np.concatenate([one.features, other.features])
    if (known := _persons_of(one, other)) is not None:
        persons = np.concatenate(known)
    both = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("labels", "answers")}
    tokens = None if one.tokens is None or other.tokens is None else one.tokens.followed_by(other.tokens)
    return AnsweredRecords(name=one.name, level=one.level, features=features, persons=persons, tokens=tokens, **both)


def answered(saved: SavedRecords, model: AuditedModel | None, grant: Grant) -> AnsweredRecords:
    """Saved records with the answers that were saved with them, or that a model gives now.

    Args:
        saved: what stands in a file.
        model: that is asked; None where answers were saved.
        grant: what attackers see; cuts that it names are believed.

    Raises:
        ValueError: if there are neither records nor answers, or the answers are none.
    """
    if TOKEN_LOGPROBS in saved.answers or (model is not None and model.answers == TOKEN_LOGPROBS):
        return _answered_texts(saved, model)
    if model is None:
        if not saved.answers:
            raise ValueError(
                f"{saved.name} holds no answers; save logits, probabilities or predictions, or name a model"
            )
        ((level, plain),) = saved.answers.items()
        labels, features = saved.numbered(saved.classes), saved.rows
        answers = class_scores(saved.name, level, plain, saved.classes)
        if is_of_second_class(level, plain) and labels.max() > 1:
            raise ValueError(
                f"{saved.name}: {level} are one number a record, and labels name {labels.max() + 1} classes; save"
                " a score of each"
            )
    else:
        rows, labels = askable(saved, model), saved.numbered(model.classes)
        level, answers, features = model.answers, model.answer(rows), model.inputs(rows)
    known = None if features is None else np.asarray(features)
    records = AnsweredRecords(
        name=saved.name, labels=labels, level=level, answers=answers, features=known, persons=saved.persons
    )
    _check(records)
    if level == "probabilities" and not (model is not None and model.is_guarded):
        _check_sums(records, grant)
    return records


def _answered_texts(saved: SavedRecords, model: AuditedModel | None) -> AnsweredRecords:
    """Texts with per-token answers that were saved with them, or that a language model gives now."""
    arrays = saved.answers if model is None else texts.arrays_of(model.ask(askable(saved, model)))
    tokens = texts.tokens_of(saved.name, arrays, saved.texts)
    total = tokens.mean(tokens.log_probabilities)[0] * tokens.lengths
    return AnsweredRecords(
        name=saved.name,
        labels=np.zeros(tokens.records, dtype=np.int64),
        level=TOKEN_LOGPROBS,
        answers=np.stack([total, tokens.lengths.astype(np.float64)], axis=1),
        features=None if saved.texts is None else texts.word_counts(saved.texts),
        persons=saved.persons,
        tokens=tokens,
    )


def notes_on_form(sides: Sequence[SavedRecords]) -> list[str]:
    """A sentence on saved scores that are one number a record: which class they were taken to be of."""
    for saved in sides:
        for level, plain in saved.answers.items():
            if is_of_second_class(level, plain):
                second = "1" if saved.classes is None else saved.classes[-1]
                return [f"One number a record was saved as {level}: it is read as that of class {second}."]
    return []


def check_classes_alike(sides: Sequence[SavedRecords]) -> None:
    """Raises ValueError if two files name other classes, or another order of them."""
    own = [saved for saved in sides if saved.answers]
    for saved in own[1:]:
        if saved.classes != own[0].classes:
            orders = " and ".join("none" if one.classes is None else ",".join(one.classes) for one in (own[0], saved))
            raise ValueError(
                f"{own[0].name} and {saved.name} name the classes {orders}; save both by one order, or give classes=[…]"
            )


def askable(saved: SavedRecords, model: AuditedModel) -> Any:
    """The rows about which a model is asked.

    Raises:
        ValueError: if there are none, or their labels are no classes of the model.
    """
    if saved.rows is None:
        raise ValueError(f"{saved.name} holds no features to ask about; save them as features, or use audit=outputs")
    saved.numbered(model.classes)
    return saved.rows


def _check(records: AnsweredRecords) -> None:
    name, answers = f"{records.name}: {records.level}", records.answers
    hard = records.level == "predictions"
    if not np.isfinite(answers).all():
        raise ValueError(f"{name} hold NaN or infinity; remove these records, and say how many they were")
    if records.labels.min() < 0 or (not hard and records.labels.max() >= answers.shape[1]):
        most = "" if hard else f" and at most {answers.shape[1] - 1}"
        raise ValueError(
            f"{records.name}: labels={records.labels.min()}..{records.labels.max()}; they must be from 0 on{most}"
        )
    if records.level == "probabilities" and (answers.min() < 0 or answers.max() > 1 + 1e-5):
        raise ValueError(f"{name} span {answers.min():g}..{answers.max():g}; they lie in 0..1, or save them as logits")


def _are_probabilities(side: AnsweredRecords) -> bool:
    """True for what is called logits and sums to 1 in each of enough records."""
    answers = side.answers
    if side.level != "logits" or len(side) < MIN_RECORDS_PER_SIDE or answers.min() < 0:
        return False
    return np.allclose(answers.sum(axis=1, dtype=np.float64), 1, atol=SUM_TOLERANCE)


def _check_sums(records: AnsweredRecords, grant: Grant) -> None:
    answers = records.answers
    off = ROUNDING_ERROR if grant.decimals is None else 0.5 * 0.1**grant.decimals
    sums = answers.sum(axis=1, dtype=np.float64)
    low = np.inf if grant.top_k is not None else off * answers.shape[1] + 1e-6
    wrong = (sums < 1 - low) | (sums > 1 + off * answers.shape[1] + 1e-6)
    if wrong.any():
        such = f"{wrong.sum()} records do not sum to 1, such as {sums[wrong][0]:.3g}"
        raise ValueError(
            f"{records.name}: probabilities of {such}; save all of them, or say how they were cut:"
            " threat.outputs=probabilities with threat.top_k=3 or threat.decimals=1"
        )


def check_alike(sides: Sequence[AnsweredRecords]) -> None:
    """Raises ValueError unless all answers and records are of one kind and shape, and the kind is what it is called."""
    first = sides[0]
    for side in sides[1:]:
        if side.level != first.level:
            raise ValueError(f"{side.name} holds {side.level} and {first.name} {first.level}; save the same of both")
        if side.answers.shape[1:] != first.answers.shape[1:]:
            classes = f"{side.answers.shape[1]} classes and {first.name} {first.answers.shape[1]}"
            raise ValueError(f"{side.name} has {classes}; both must come from one model")
        if (side.features is None) != (first.features is None):
            raise ValueError(f"only one of {first.name} and {side.name} holds features; save them in both or in none")
        if (
            side.features is not None
            and first.features is not None
            and side.features.shape[1:] != first.features.shape[1:]
        ):
            shapes = f"{side.features.shape[1:]} and of {first.name} {first.features.shape[1:]}"
            raise ValueError(f"features of {side.name} have shape {shapes}; save both as the model takes them")
    for side in sides:
        if _are_probabilities(side):
            raise ValueError(
                f"{side.name}: logits lie in 0..1 and sum to 1 in each record, as probabilities do; set"
                " answers=probabilities, or save them as probabilities"
            )


def counted(side: AnsweredRecords, noun: str) -> str:
    """Number of records on a side in words, and of persons where somebody has several."""
    persons = side.person_count
    return f"{len(side):,} {noun}" + (f" of {persons:,} persons" if persons < len(side) else "")


def enough_persons(*sides: AnsweredRecords) -> None:
    """Raises ValueError if a side rests on too few persons for intervals over persons."""
    for side in sides:
        if side.person_count < MIN_RECORDS_PER_SIDE:
            raise ValueError(
                f"{side.name} holds records of {side.person_count} persons; give those of at least"
                f" {MIN_RECORDS_PER_SIDE}"
            )


def shared_rows(one: AnsweredRecords, other: AnsweredRecords) -> int:
    """Number of the other side's records that this side holds too, known by their features or else by their answers.

    Predicted classes are alike for records that are not, and so are probabilities of 0 and 1: none of them count. Nor
    do any probabilities if records of one side share them, as those of a tree or rounded ones do.
    """

    def rows(side: AnsweredRecords) -> list[bytes]:
        known = side.answers if side.features is None else side.features
        numbers = np.asarray(known, dtype=np.float64) + 0.0  # whatever the type they were saved in; −0 is 0
        distinct = np.full(len(side), side.features is not None or side.level != "predictions")
        if side.features is None and side.level == "probabilities":
            distinct = numbers.max(axis=1) < SATURATED_PROBABILITY
            distinct &= len(np.unique(numbers[distinct], axis=0)) == distinct.sum()
        parts = zip(numbers[distinct], side.labels[distinct], strict=True)
        return [row.tobytes() + bytes(label) for row, label in parts]

    there = set(rows(one))
    return sum(row in there for row in rows(other))


def order_of(records: int) -> Int64[np.ndarray, "records"]:
    """The places in both files, members first, of the records of a view: an order that tells nothing."""
    return np.random.default_rng(0).permutation(records)


def view_of(
    members: AnsweredRecords,
    nonmembers: AnsweredRecords,
    population: AnsweredRecords | None,
    grant: Grant,
    model: AuditedModel | None = None,
) -> View:
    """View of one model for attackers: answers about both sides, in the order of `order_of`.

    Args:
        members: records that the model was trained on.
        nonmembers: records that it was not.
        population: further non-members, which attackers hold.
        grant: what they are granted.
        model: that they may ask about inputs of their choice.
    """
    order = order_of(len(members) + len(nonmembers))

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(members, name), getattr(nonmembers, name)])[order]

    level = cast(Level, "label" if members.level == "predictions" else members.level)
    fields: dict[str, Any]
    if members.tokens is not None and nonmembers.tokens is not None:
        fields = texts.released(members.tokens.followed_by(nonmembers.tokens).about(order), grant, "")
    else:
        fields = grant.released(both("answers")[None], level)
    if members.features is not None:
        fields["features"] = both("features")
    if population is not None:
        if population.tokens is not None:
            fields |= texts.released(population.tokens, grant, "population_")
        else:
            outputs = grant.released(population.answers[None], level)
            fields |= {f"population_{name}": answers for name, answers in outputs.items()}
        fields |= {"population_labels": population.labels, "population_features": population.features}
    if model is not None and model.takes_inputs:
        fields["query"] = lambda _, x: grant.answer(model.answer(x), level)
    fields["persons"] = _persons(members, nonmembers, order)
    classes = members.answers.shape[-1] if "probabilities" in fields else 0
    shown = [k for k in (grant.top_k, None if model is None else model.top_k) if k is not None and k < classes]
    membership = (order < len(members))[None]
    return View(labels=both("labels"), membership=membership, top_k=min(shown, default=None), **fields)


def _persons(
    members: AnsweredRecords, nonmembers: AnsweredRecords, order: Int64[np.ndarray, "records"]
) -> Int64[np.ndarray, "records"] | None:
    """A number for each person, None where nothing is said about persons."""
    if (known := _persons_of(members, nonmembers)) is None:
        return None
    if both := shared_persons(members, nonmembers):
        raise ValueError(
            f"{members.name} and {nonmembers.name} hold records of {both} same persons; give each person one side"
        )
    return np.unique(np.concatenate(known)[order], return_inverse=True)[1].astype(np.int64)


def shared_persons(one: AnsweredRecords, other: AnsweredRecords) -> int:
    """Number of persons with records on both sides; none is known where a side says nothing about persons."""
    if one.persons is None or other.persons is None:
        return 0
    known = _persons_of(one, other)
    assert known is not None
    return len(np.intersect1d(*known))


def _persons_of(
    one: AnsweredRecords, other: AnsweredRecords
) -> tuple[Shaped[np.ndarray, "records"], Shaped[np.ndarray, "others"]] | None:
    """The persons of both, None where nothing is said about persons."""
    if one.persons is None or other.persons is None:
        if one.persons is not None or other.persons is not None:
            raise ValueError(f"only one of {one.name} and {other.name} holds persons; save them in both")
        return None
    if (one.persons.dtype.kind == "U") != (other.persons.dtype.kind == "U"):
        raise ValueError(f"persons of {one.name} and {other.name} are words and numbers; save the same kind")
    if one.persons.dtype.kind != other.persons.dtype.kind:  # together they would be floats, alike for unlike numbers
        return one.persons.astype(object), other.persons.astype(object)
    return one.persons, other.persons


SHADOW_SIDES = ("shadow_members", "shadow_nonmembers")
"""Settings that name the files: records that the shadow was trained on, and records that it was not."""


def shadow_sides(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings of shadow files that are set: both or neither.

    Raises:
        ValueError: if one lacks the other, or the audit takes none.
    """
    chosen = [key for key in SHADOW_SIDES if settings.get(key)]
    if chosen and kind != "outputs":
        raise ValueError(f"{chosen[0]}={settings[chosen[0]]}: expected null with audit={kind}; use audit=outputs")
    if len(chosen) == 1:
        (lacking,) = {*SHADOW_SIDES} - {*chosen}
        raise ValueError(f"{lacking}: not given, expected beside {chosen[0]}; add {lacking}=<file.npz>")
    return chosen


def check_apart(shadow: Sequence[AnsweredRecords], audited: Sequence[AnsweredRecords]) -> None:
    """Raises ValueError if a record or a person of the shadow's is on both of its sides, or is audited too."""
    for one, other in (*combinations(shadow, 2), *product(audited, shadow)):
        if count := shared_rows(one, other):
            raise ValueError(f"{one.name} and {other.name} share {count} records; remove them from {other.name}")
        if count := shared_persons(one, other):
            raise ValueError(
                f"{one.name} and {other.name} hold records of {count} same persons; remove theirs from {other.name}"
            )


def margins(attack: Attack, view: View, shadow: View) -> Float[np.ndarray, "records"] | None:
    """Each record's signal less the threshold of its class; from 0 on it is called a member.

    A threshold for each class, the one with the best balanced accuracy on the shadow's records; a class of which it
    lacks members or non-members takes the one of all classes together (Song & Mittal 2021, section 3.2). The gap attack
    has a threshold of its own: who is classified correctly is called a member (section 3.1).

    Args:
        attack: any; with one threshold for all classes where it is a threshold.
        view: of the audited model.
        shadow: of the shadow model about other records, answers at the same level.

    Returns:
        None for an attack that has no threshold to learn.
    """
    if isinstance(attack, Correctness):
        return attack.score(view)[0] - 1.0
    if not isinstance(attack, Threshold):
        return None
    own, known = attack.score(view)[0], attack.score(shadow)[0]
    records = len(own)
    signal = np.full((2, records + len(known)), np.nan)  # neither model answered about the other's records
    signal[0, :records], signal[1, records:] = own, known
    membership = np.concatenate([view.membership[0], shadow.membership[0]])
    thresholds = class_thresholds(
        signal,
        np.concatenate([view.labels, shadow.labels]),
        np.stack([membership, membership]),
        ~np.eye(2, dtype=bool),
    )
    return own - thresholds[0, :records]


def accuracy_of(
    margin: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None,
    replicates: int,
) -> Estimate:
    """Balanced accuracy at thresholds from other data, given the shadow: exact, or over persons who have several.

    Args:
        margin: of `margins`.
        members: which records the audited model was trained on.
        persons: whose record each one is, where somebody has several; None: records are independent.
        replicates: of the bootstrap over persons.
    """
    if persons is None:
        return Called.at(margin, members, 0.0).balanced_accuracy()
    called = (margin >= 0).astype(np.float64)  # of calls, the AUC is the balanced accuracy
    drawn = Bootstrap(replicates=replicates, persons=persons)
    return fleet_metrics(called[None], members[None], {"accuracy": Roc.auc}, drawn).estimates["accuracy"]
