"""Rehearsal of attacks: the time of each on a few models and records, and what follows for all of them.

Answers are drawn at random, so that no model is asked; records, classes and memberships are those of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, Real, Shaped
from scipy.special import softmax

from palisade.attacks import Attack, LossThreshold, View
from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.neighbor_copies import COPY_COUNT
from palisade.attacks.parts.signals import temperatures_of
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.attacks.parts.view import is_vectors
from palisade.data.sequences import NO_TOKEN, TOKEN_COLUMNS, TOKEN_ROW
from palisade.data.split import Membership
from palisade.evaluation.measuring.exposure import Exposure
from palisade.evaluation.measuring.leakage import leakage, leakage_of_groups, mean_roc, null_rows, null_rows_of_groups
from palisade.evaluation.measuring.usefulness import contributions, groups, row, rows_of_models
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.documents import token_answers_of
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.inner import SHADOW_MODELS
from palisade.evaluation.signals.saved import rows_of, saved
from palisade.evaluation.signals.shadows import can_train_further
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.utility import document_measures
from palisade.targets.run import Run

REHEARSED_MODELS = 16
REHEARSED_RECORDS = 1000
"""Half of them are more than attacks that tune on a sample of the records take for it."""
FIRST_RECORDS = 128
MAX_FIRST_SECONDS = 2.0
"""An attack that takes longer on the first records is rehearsed on no more."""
SQUARE_IN_MODELS = frozenset({"reference"})
"""Attacks whose time grows with the square of the number of models; of all others it is linear."""
SQUARE_IN_RECORDS = frozenset({"joint_lira"})
"""Attacks whose time grows with the square of the number of records; of all others it is linear."""
RESCORED_FLEETS = 2
"""Fleets that the strongest attack scores besides, half by half, to see how much what it finds depends on the fleet."""
RANDOM_LAYERS = 8
RANDOM_HIDDEN = 128


@dataclass(frozen=True, kw_only=True)
class AttackTime:
    """Time that an attack would take on all models and records of a run.

    Args:
        name: of the attack.
        seconds: on one core, without those in which models answer.
        inputs: of its own choice that it puts to the models, behind their guard.
        label_inputs: of which it asks for the class alone, which no guard changes.
    """

    name: str
    seconds: float
    inputs: float = 0.0
    label_inputs: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RehearsedTimes:
    """Times of an evaluation of a run, without those in which its models answer.

    Args:
        attacks: those that would run.
        metrics_seconds: all that is computed from their scores, and how useful the models are.
    """

    attacks: Sequence[AttackTime]
    metrics_seconds: float

    @property
    def rescoring(self) -> AttackTime:
        """Time of the strongest attack on halves of the fleet: which one it is will be seen, so their mean is taken."""
        share = RESCORED_FLEETS / max(len(self.attacks), 1)
        return AttackTime(
            name="rescoring",
            seconds=share * sum(attack.seconds for attack in self.attacks),
            inputs=share * sum(attack.inputs for attack in self.attacks),
            label_inputs=share * sum(attack.label_inputs for attack in self.attacks),
        )


def rehearse(run: Run, protocol: AttackProtocol) -> RehearsedTimes:
    """Times of the attacks on a run that its models and records allow for.

    Takes seconds, however large the run is; nothing is written, and no model is asked or trained.

    Args:
        run: a complete run.
        protocol: how it is attacked.
    """
    records = min(len(run.dataset.split.audited), REHEARSED_RECORDS)
    casts = [Cast(run, protocol, count) for count in sorted({min(FIRST_RECORDS, records), (records + 1) // 2, records})]
    attacks = [cost for attack in protocol.attacks_on(run) if (cost := _attack_time(attack, casts)) is not None]
    once = _extended(casts, [_seconds(cast.measure_once) for cast in casts])
    each = _extended(casts, [_seconds(cast.measure_attack) for cast in casts])
    return RehearsedTimes(attacks=attacks, metrics_seconds=once + len(attacks) * each)


class Cast:
    """A few models in the place of a run's, with a part of its records.

    Args:
        run: whose records, memberships and settings are taken.
        protocol: what attackers are granted.
        records: how many of the audited records there are.
    """

    def __init__(self, run: Run, protocol: AttackProtocol, records: int) -> None:
        self.run, self.protocol, self.records = run, protocol, records
        self.all_models, self.all_records = len(run.models()), len(run.dataset.split.audited)
        self.models = min(self.all_models, REHEARSED_MODELS)
        self.rng = np.random.default_rng(0)
        self.inputs = self.label_inputs = 0
        self.answering = 0.0
        self.view = self._view()
        self.bootstrap = Bootstrap(seed=run.config["seed"], groups=self.view.groups, persons=self.view.persons)

    @property
    def share(self) -> float:
        """Share of the run's records that are here."""
        return self.records / self.all_records

    def smaller(self, attack: Attack) -> Attack:
        """The attack with limits on models and records that are to these as its own are to the run's."""
        if not is_dataclass(attack):
            return attack
        shares = {"targets": self.models / self.all_models, "records": self.share}
        named = [field.name for field in fields(attack) if field.name in shares]
        limits = {name: limit for name in named if (limit := getattr(attack, name)) is not None}
        return replace(attack, **{name: max(2, math.ceil(limit * shares[name])) for name, limit in limits.items()})

    def measure_attack(self) -> None:
        """Computes all that is reported of one attack."""
        scores, attack = self._scores(), LossThreshold()
        list(leakage(attack, scores, self.view, self.bootstrap))
        list(null_rows({attack: scores}, self.view, self.bootstrap.seed))
        mean_roc(scores, self.view.membership)

    def measure_once(self) -> None:
        """Computes all that is reported of the strongest attack alone, and of the models themselves."""
        scores, attack, data = self._scores(), LossThreshold(), self.run.dataset
        slices = self.protocol.slices_of(self.run)
        parts = list(groups(data, data.split.audited[self.places], slices)) if not len(data.split.canaries) else []
        list(leakage_of_groups(attack, scores, self.view, self.bootstrap, parts))
        if parts:
            list(null_rows_of_groups(attack, scores, self.view, self.bootstrap.seed, parts))
        Exposure.of(scores, self.view.membership, self.view.labels, self.places, 1.0).to_json()
        test = data.split.test[: math.ceil(self.share * len(data.split.test))]
        if data.positional:
            lengths = (data.y[test] != NO_TOKEN).sum(axis=1)
            for _ in range(self.models):
                document_measures(self._token_rows(data.y[test]), lengths)
            return
        outputs, level = self._answers(data.y[test]), self.run.registered_guard.level
        whole = np.ones(len(test), dtype=bool)
        for _, inside in (("all", whole), *groups(data, test, slices)):
            for metric, values in contributions(outputs[:, inside], data.y[test][inside], level):
                row(metric, values, replace(self.bootstrap, persons=None))
                list(rows_of_models(metric, values))

    def _scores(self) -> Float[np.ndarray, "models records"]:
        return self.rng.standard_normal((self.models, self.records)) + self.view.membership

    def _answers(
        self, labels: Int64[np.ndarray, "n"], *queries: int
    ) -> Shaped[np.ndarray, "models n *queries_classes"]:
        """Random answers as models behind the run's guard give them, right more often than not."""
        shape = (self.models, len(labels), *queries, len(self.run.dataset.classes))
        logits = self.rng.standard_normal(shape, dtype=np.float32)
        logits[:, np.arange(len(labels)), ..., labels] += 3
        return self._guarded(logits)

    def _guarded(self, logits: Float32[np.ndarray, "*shape classes"]) -> Shaped[np.ndarray, "..."]:
        guard, classes = self.run.registered_guard, logits.shape[-1]
        if guard.level == "label":
            return logits.argmax(axis=-1)
        if guard.level == "logits":
            return logits
        if guard.top_k is None or guard.top_k >= classes:
            return np.asarray(softmax(logits, axis=-1))
        return np.asarray(Grant(outputs="probabilities", top_k=guard.top_k).released(logits)["probabilities"])

    def _view(self) -> View:
        run, rng, grant = self.run, self.rng, self.protocol.grant
        data, split, guard = run.dataset, run.dataset.split, run.registered_guard
        self.places = places = np.sort(rng.permutation(self.all_records)[: self.records])
        audited = split.audited[places]
        membership = Membership(**run.config["membership"])
        models = run.models()[: self.models]
        queries = len(self.protocol.queries)
        shown = (
            self._of_documents(audited)
            if data.positional
            else self._released(data.y[audited], *([queries] if queries > 1 else []))
        )
        if len(split.population) and not data.positional:
            population = split.population[: max(2, math.ceil(self.share * len(split.population)))]
            released = self._released(data.y[population])
            shown |= {f"population_{name}": values for name, values in released.items()}
            shown |= {"population_labels": data.y[population], "population_features": data.x[population]}
        if run.has_weights() and not data.positional:
            shown |= self._of_weights(audited)
        held_back = [k for k in (grant.top_k, guard.top_k) if k is not None and k < len(data.classes)]
        return View(
            labels=data.labels[audited],
            membership=membership.draw(split, models, run.secret)[:, split.is_audited][:, places],
            groups=membership.groups(models),
            persons=None if split.persons is None else split.persons[split.is_audited][places],
            features=data.x[audited],
            top_k=min(held_back, default=None),
            **shown,
        )

    def _token_rows(self, y: Int64[np.ndarray, "documents T"]) -> Shaped[np.ndarray, "documents T"]:
        """Random answers of one language model."""
        rows = np.zeros(y.shape, TOKEN_ROW)
        for name in TOKEN_COLUMNS:
            rows[name] = self.rng.standard_exponential(y.shape) * (1 if name == "variance" else -1)
        rows["greedy"] = self.rng.random(y.shape) < 0.5
        rows["log_probability"][y == NO_TOKEN] = np.nan
        return rows

    def _of_documents(self, audited: Int64[np.ndarray, "records"]) -> dict[str, Any]:
        """Random answers of language models about documents and the population."""
        data = self.run.dataset
        others = data.split.population[: max(2, math.ceil(self.share * len(data.split.population)))]
        copies = np.broadcast_to(self.rng.random(COPY_COUNT, dtype=np.float32), (self.models, len(audited), COPY_COUNT))
        tokens = self._tokens(data.y[audited], copies)
        shown: dict[str, Any] = {"tokens": tokens, "signals": tokens.rows()}
        if len(data.split.population):
            tokens = self._tokens(data.y[others])
            shown |= {"population_tokens": tokens, "population_signals": tokens.rows()}
            shown |= {"population_labels": data.labels[others], "population_features": data.x[others]}
        return shown

    def _tokens(self, y: Int64[np.ndarray, "documents T"], copies: np.ndarray | None = None) -> TokenAnswers:
        return token_answers_of([self._token_rows(y) for _ in range(self.models)], self.run.dataset, y, copies)

    def _released(self, labels: Int64[np.ndarray, "n"], *queries: int) -> dict[str, Any]:
        """Random answers, or the signals that follow from some where weights were removed, as far as granted."""
        grant, answers = self.protocol.grant, self._answers(labels, *queries)
        if self.run.has_weights():
            return grant.released(answers, self.run.registered_guard.level)
        rows = rows_of(answers, labels, temperatures_of([saved(self.run, "pool").dtype]))
        by_query = rows.reshape(*rows.shape[:2], -1)
        return grant.released_signals(MappedAnswers([list(np.moveaxis(of_model, 1, 0)) for of_model in by_query]))

    def _of_weights(self, audited: Int64[np.ndarray, "records"]) -> dict[str, Any]:
        """Random values in the place of all that only models themselves give."""
        run, rng, grant = self.run, self.rng, self.protocol.grant
        data, guard, shape = run.dataset, run.registered_guard, (self.models, self.records)
        shown: dict[str, Any] = {}
        if run.guard != Run(run.folder).guard:
            shown["unguarded_logits"] = rng.standard_normal((*shape, len(data.classes)), dtype=np.float32)
        if not is_vectors(data.x):
            hidden = (min(self.models, SHADOW_MODELS), self.records, RANDOM_HIDDEN)
            shown["shadow_features"] = rng.standard_normal(hidden, dtype=np.float32)
        if grant.weights:
            layers = (*shape, RANDOM_LAYERS)
            shown |= {name: rng.random(layers, dtype=np.float32) for name in ("gradient_norms", "activation_norms")}
        if grant.weights and (checkpoints := run.checkpoints()):
            shown["alignment"] = rng.standard_normal(shape, dtype=np.float32)
            shown["trajectory"] = rng.random((*shape, len(checkpoints) + 1), dtype=np.float32)
        if can_train_further(run):
            shown["further_shadows"] = self._further_shadows
        query, query_label = self._queries(data.x[audited], data.y[audited])
        keeps_label = guard.keeps_label and grant.decimals is None
        return {**shown, "query": query, "query_label": query_label if keeps_label else None}

    def _queries(
        self, x: Real[np.ndarray, "records *shape"], y: Int64[np.ndarray, "records"]
    ) -> tuple[Callable[[int, np.ndarray], np.ndarray], Callable[[int, np.ndarray], np.ndarray]]:
        """Answers to inputs of an attacker's choice by a linear model that fits these records, which are counted."""
        rows = x.reshape(len(x), -1).astype(np.float32)
        center, wanted = rows.mean(axis=0), np.eye(len(self.run.dataset.classes), dtype=np.float32)[y]
        kernel = (rows - center) @ (rows - center).T
        ridge = 1e-3 * max(float(np.trace(kernel)) / len(rows), 1e-6)
        weights = (rows - center).T @ np.linalg.solve(kernel + ridge * np.eye(len(rows), dtype=np.float32), wanted)
        grant, level = self.protocol.grant, self.run.registered_guard.level

        def logits(x: np.ndarray) -> np.ndarray:
            return np.asarray((x.reshape(len(x), -1).astype(np.float32) - center) @ weights.astype(np.float32))

        def query(model: int, x: np.ndarray) -> np.ndarray:
            started = time.thread_time()
            answer = grant.answer(self._guarded(logits(x)), level)
            self.inputs, self.answering = self.inputs + len(x), self.answering + time.thread_time() - started
            return answer

        def query_label(model: int, x: np.ndarray) -> np.ndarray:
            started = time.thread_time()
            answer = logits(x).argmax(axis=-1)
            self.label_inputs += len(x)
            self.answering += time.thread_time() - started
            return answer

        return query, query_label

    def _further_shadows(self, target: int, inside: np.ndarray, outside: np.ndarray, shadows: int) -> View:
        """Random answers in the place of those of shadows that would be trained."""
        rest = ~(inside | outside)
        own, records = self.view, int(rest.sum())
        shape = (shadows + 1, records, len(self.run.dataset.classes))
        membership = self.rng.random(shape[:2]) < 0.5
        membership[0] = False
        answers = self._guarded(self.rng.standard_normal(shape, dtype=np.float32))
        released = self.protocol.grant.released(answers, self.run.registered_guard.level)
        return View(labels=own.labels[rest], membership=membership, top_k=own.top_k, **released)


def _attack_time(attack: Attack, casts: Sequence[Cast]) -> AttackTime | None:
    """Time of one attack; None if it would be skipped."""
    if casts[-1].smaller(attack).missing(casts[-1].view) is not None:
        return None
    first = _rehearsed(attack, casts[0])
    if first.seconds > MAX_FIRST_SECONDS:  # or else libraries were loaded
        first = _rehearsed(attack, casts[0])
    taken = casts[:1] if first.seconds > MAX_FIRST_SECONDS else casts[-2:]
    measured = [first if cast is casts[0] else _rehearsed(attack, cast) for cast in taken]

    def extended(name: str) -> float:
        values = [getattr(each, name) for each in measured]
        return _extended(taken, values, 1 + (attack.name in SQUARE_IN_MODELS), 1 + (attack.name in SQUARE_IN_RECORDS))

    return AttackTime(
        name=attack.name,
        seconds=extended("seconds"),
        inputs=extended("inputs"),
        label_inputs=extended("label_inputs"),
    )


def _rehearsed(attack: Attack, cast: Cast) -> AttackTime:
    cast.inputs, cast.label_inputs, cast.answering = 0, 0, 0.0
    smaller = cast.smaller(attack)
    if smaller.missing(cast.view) is not None:  # on so few records
        return AttackTime(name=attack.name, seconds=0.0)
    seconds = _seconds(lambda: smaller.run(cast.view))
    return AttackTime(
        name=attack.name,
        seconds=max(seconds - cast.answering, 0.0),
        inputs=cast.inputs,
        label_inputs=cast.label_inputs,
    )


def _seconds(work: Callable[[], Any]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _extended(
    casts: Sequence[Cast], measured: Sequence[float], power_of_models: int = 1, power_of_records: int = 1
) -> float:
    """Extension of measurements to all records of a run: a part is fixed, a part grows, as the last two have it.

    Args:
        casts: on which it was measured, with ever more records.
        measured: the time or number of each.
        power_of_models: by which it grows.
        power_of_records: by which the part grows that does.
    """
    last = casts[-1]
    of_models = (last.all_models / last.models) ** power_of_models
    counts = [cast.records**power_of_records for cast in casts[-2:]]
    all_of_them = last.all_records**power_of_records
    proportional = measured[-1] * all_of_them / counts[-1]
    if len(counts) < 2 or counts[0] == counts[-1]:
        return of_models * proportional
    slope = max((measured[-1] - measured[-2]) / (counts[-1] - counts[-2]), 0.0)
    return of_models * min(measured[-1] + slope * (all_of_them - counts[-1]), proportional)
