"""Cost of an evaluation, said beforehand: minutes, memory and disk of each run that would be attacked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from palisade.attacks.parts.blocks import NUMBERS_AT_ONCE
from palisade.attacks.parts.neighbor_copies import COPY_COUNT
from palisade.attacks.parts.view import is_vectors
from palisade.evaluation.format import console_for, counted_runs, empty_table, show
from palisade.evaluation.measuring.runs import MIN_SCORES_TO_CUT, scores_of, stored_result
from palisade.evaluation.plan import cost_of_attacks
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.rehearsal import RANDOM_HIDDEN, RehearsedTimes, rehearse
from palisade.evaluation.signals.inner import SHADOW_MODELS
from palisade.evaluation.signals.saved import saved
from palisade.evaluation.signals.stored import answer_paths, is_cached, questions
from palisade.targets import engines
from palisade.targets.plan import NUMBERS_PER_TOKEN
from palisade.targets.run import Run, canonical

ASKED_RECORDS = 512
"""Records by which the time of a model's answers is measured."""
GUARDED_RECORDS = 32
"""Records by which the time of a guard's answers is measured: some compute each of them at length."""
DIFFERENTIATED_RECORDS = 32
"""Records by which the time of gradients is measured."""
START_SECONDS = 5.0
"""Time until the libraries of a process are loaded."""
LIBRARY_MEGABYTES = 450.0
"""Anonymous memory of a process with all of its libraries and the records of a small data set."""
BLOCK_ARRAYS = 20
"""Arrays of a block that are there at a time."""
ANSWER_ARRAYS = 4
"""Arrays of one model's answers that are there at a time."""
MEMBERSHIP_ARRAYS = 4
"""Membership and its opposite, which records count, and of which it is right."""
SIGNAL_ARRAYS = 6
"""Signals of each query that are there at a time."""
FLOAT32_BYTES, FLOAT64_BYTES, LABEL_BYTES = 4, 8, 8
Megabytes = float
Seconds = float


@dataclass(frozen=True, kw_only=True)
class EvaluationCost:
    """Cost of the evaluation of one run.

    Args:
        run: its name, with the guard.
        models: of the run.
        to_train: further shadows that attacks would train, at most.
        seconds: on one core, by step: answers, signals, each attack, metrics, training.
        memory: anonymous resident memory of its process.
        disk: what it would add to the run's folder.
        cut: whether workers share it, if there are fewer runs than workers.
    """

    run: str
    models: int
    to_train: int = 0
    seconds: Mapping[str, Seconds]
    memory: Megabytes = 0.0
    disk: Megabytes = 0.0
    cut: bool = False

    @property
    def minutes(self) -> float:
        """All steps together."""
        return sum(self.seconds.values()) / 60


@dataclass(frozen=True, kw_only=True)
class AnswerTime:
    """Time of an answer about one record, in seconds.

    Args:
        model: of one of the models.
        guard: of the guard before it, besides.
    """

    model: Seconds
    guard: Seconds = 0.0


def costs(runs: Sequence[Run], protocol: AttackProtocol) -> list[EvaluationCost]:
    """Cost of the evaluation of each run; one that was measured already costs nothing.

    Runs that attackers see alike are rehearsed once. Nothing is written or trained.
    """
    rehearsals: dict[str, RehearsedTimes] = {}
    result = []
    with threadpool_limits(1):  # as in worker processes; threads that wait for each other would be counted
        for run in runs:
            if stored_result(run, protocol) is not None:
                result.append(EvaluationCost(run=run.name, models=len(run.models()), seconds={}))
                continue
            kind = _kind(run, protocol)
            if kind not in rehearsals:
                rehearsals[kind] = rehearse(run, protocol)
            result.append(cost_of(run, protocol, rehearsals[kind]))
    return result


def cost_of(run: Run, protocol: AttackProtocol, rehearsal: RehearsedTimes) -> EvaluationCost:
    """Cost of the evaluation of a run by what its attacks took in a rehearsal.

    The time of an answer is measured on a few records by one of the run's models.
    """
    models, records, data = len(run.models()), len(run.dataset.split.audited), run.dataset
    classes = NUMBERS_PER_TOKEN * data.shape[0] if data.positional else len(data.classes)  # numbers of an answer
    trained = cost_of_attacks(run, protocol.attacks_on(run))
    time_of = answer_time(run)
    of_models, of_guard = _unstored_answers(run, protocol)
    signals = _signals(run, protocol, time_of)
    labels = run.registered_guard.level == "label"
    seconds = {
        "answers": of_models * time_of.model + of_guard * time_of.guard,
        "signals": signals.seconds,
        **{
            attack.name: attack.seconds + attack.label_inputs * time_of.model
            + attack.inputs * (time_of.model + time_of.guard)
            for attack in (*rehearsal.attacks, rehearsal.rescoring)
        },
        "metrics": rehearsal.metrics_seconds,
        "training": 60 * trained["minutes"],
    }  # fmt: skip
    stored = FLOAT32_BYTES * (of_models * classes + signals.numbers)
    stored += of_guard * (LABEL_BYTES if labels else FLOAT32_BYTES * classes)
    return EvaluationCost(
        run=run.name,
        models=models,
        to_train=trained["missing"],
        seconds=seconds,
        memory=memory(models, records, len(protocol.queries), classes, attacks=len(rehearsal.attacks)),
        disk=stored / 1e6 + trained["megabytes"],
        cut=scores_of(run, protocol) >= MIN_SCORES_TO_CUT,
    )


def memory(models: int, records: int, queries: int, classes: int, attacks: int) -> Megabytes:
    """Anonymous resident memory of an evaluation, by a formula.

    Libraries + blocks of records + one model's answers + membership, and signals and scores of all attacks unless they
    are so many that they lie in files.

    Args:
        models: of the run.
        records: that are audited.
        queries: how often each is put to each model.
        classes: of the data.
        attacks: whose scores are compared.
    """
    pairs = models * records
    block = FLOAT64_BYTES * BLOCK_ARRAYS * min(NUMBERS_AT_ONCE, pairs)
    answers = FLOAT64_BYTES * ANSWER_ARRAYS * min(NUMBERS_AT_ONCE, records * classes)
    of_attacks = FLOAT64_BYTES * (attacks + SIGNAL_ARRAYS * queries)
    shared = pairs * (MEMBERSHIP_ARRAYS + (of_attacks if pairs <= NUMBERS_AT_ONCE else 0))
    return LIBRARY_MEGABYTES + (block + answers + shared) / 1e6


def answer_time(run: Run) -> AnswerTime:
    """Time of an answer of the run's first model, measured; none where signals were saved in the place of weights."""
    from palisade.targets.training import load_fleet, load_guarded

    if not run.has_weights():
        return AnswerTime(model=0.0)
    x = run.dataset.x[run.dataset.split.audited[:ASKED_RECORDS]]
    fleet = load_fleet(run.config, run.dataset, run.folder, [0])
    y = run.dataset.y[run.dataset.split.audited[:ASKED_RECORDS]]
    fleet.answers(x[:1], y[:1])  # which loads what is loaded once
    model = _seconds_a_record(lambda: fleet.answers(x, y), len(x))
    if run.guard == Run(run.folder).guard:
        return AnswerTime(model=model)
    guarded = load_guarded(run.config, run.dataset, run.folder, [0], run.guard)
    x = x[:GUARDED_RECORDS]
    y = y[:GUARDED_RECORDS]
    unguarded = fleet.answers(x, y)
    guarded.answers(x[:1], y[:1], unguarded[:, :1])
    return AnswerTime(model=model, guard=_seconds_a_record(lambda: guarded.answers(x, y, unguarded), len(x)))


def show_evaluation_costs(costs: Sequence[EvaluationCost]) -> None:
    """Prints a line per run and the total: runs side by side, or steps of runs, as many as there are processes."""
    work = [max(cost.seconds.values()) / 60 if cost.cut else cost.minutes for cost in costs if cost.seconds]
    resident = [cost.memory for cost in costs if cost.seconds for _ in (cost.seconds if cost.cut else ["run"])]
    processes = max(1, min(engines.count("auto"), len(resident)))
    minutes = [cost.minutes for cost in costs]
    start = START_SECONDS / 60 if any(minutes) else 0.0
    table = empty_table()
    for place, heading in enumerate(("run", "models", "to train", "about minutes", "MB of memory", "MB of disk")):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    total = (
        counted_runs(len(costs)) + (f", {processes} workers" if processes > 1 else ""),
        sum(cost.models for cost in costs),
        sum(cost.to_train for cost in costs),
        start + max(sum(minutes) / processes, *work, 0.0),
        sum(sorted(resident, reverse=True)[:processes]),
        sum(cost.disk for cost in costs),
    )
    lines = [(cost.run, cost.models, cost.to_train, cost.minutes, cost.memory, cost.disk) for cost in costs]
    for name, models, to_train, taken, held, stored in (*lines, total):
        table.add_row(name, str(models), str(to_train), f"{taken:.1f}", f"{held:,.0f}", f"{stored:,.1f}")
    show(console_for(), table)


class _Signals(NamedTuple):
    """Signals that are not stored yet, besides answers: the seconds that they take, and their numbers on disk."""

    seconds: Seconds = 0.0
    numbers: float = 0.0

    def and_also(self, name: str, run: Run, seconds: Seconds, numbers: float) -> _Signals:
        return self if is_cached(run, name) else _Signals(self.seconds + seconds, self.numbers + numbers)


def _signals(run: Run, protocol: AttackProtocol, time_of: AnswerTime) -> _Signals:
    threats = [attack.threat for attack in (*protocol.attacks_on(run), protocol.audit)]
    plain, signals = Run(run.folder), _Signals()
    records = len(run.dataset.split.audited)
    answers = len(run.models()) * records
    if any("neighbors" in threat.tokens for threat in threats) and run.has_weights():
        signals = signals.and_also("neighbor_losses", run, answers * COPY_COUNT * time_of.model, answers * COPY_COUNT)
    hidden = run.has_weights() and not is_vectors(run.dataset.x) and not run.dataset.positional
    if hidden and any(threat.shadow_features for threat in threats):
        asked = min(SHADOW_MODELS, len(run.models())) * records
        signals = signals.and_also("last_hidden", plain, asked * time_of.model, asked * RANDOM_HIDDEN)
    if not protocol.grant.weights or not run.has_weights():
        return signals
    stretches = len(run.checkpoints()) + 1
    if any(threat.gradients for threat in threats):
        seconds, layers = _gradient_time(run)
        of_path = stretches if stretches > 1 else 0  # both ends alone say less than the loss does
        signals = signals.and_also(
            "white_box/gradient_norms", plain, answers * (1 + of_path) * seconds, answers * (2 * layers + bool(of_path))
        )
    if any(threat.checkpoints for threat in threats) and stretches > 1:
        asked = answers * stretches
        signals = signals.and_also("white_box/trajectory", plain, asked * time_of.model, asked)
    return signals


def _gradient_time(run: Run) -> tuple[Seconds, int]:
    """Time of the gradients of a record, and the number of layers."""
    from palisade.targets.gradients import layer_norms
    from palisade.targets.training import load_fleet

    records = run.dataset.split.audited[:DIFFERENTIATED_RECORDS]
    x, y = run.dataset.x[records], run.dataset.y[records]
    fleet = load_fleet(run.config, run.dataset, run.folder, [0])
    norms = layer_norms(fleet.network, fleet.states[0], x, y, fleet.device)
    return (
        _seconds_a_record(lambda: layer_norms(fleet.network, fleet.states[0], x, y, fleet.device), len(x)),
        norms.gradients.shape[1],
    )


def _unstored_answers(run: Run, protocol: AttackProtocol) -> tuple[int, int]:
    """Answers about records that models still have to give, and their guards."""
    if not run.has_weights():
        return 0, 0
    split, plain = run.dataset.split, Run(run.folder)
    of_models = of_guard = 0
    for role, query in questions(run, protocol.queries):
        count = len(getattr(split, role))
        of_models += count * _unanswered(plain, role, query)
        if run.guard != plain.guard:
            of_guard += count * _unanswered(run, role, query)
    return of_models, of_guard


def _unanswered(run: Run, role: str, query: str) -> int:
    """Number of models whose answers to a query no file holds."""
    return sum(not path.exists() for path in answer_paths(run, role, query).values())


def _kind(run: Run, protocol: AttackProtocol) -> str:
    """Names all that a rehearsal depends on."""
    config, guard = run.config, run.registered_guard
    facts = [
        canonical(config["data"]), canonical(protocol.nodes_on(run)), canonical(config["membership"]),
        canonical(config["split"]), canonical(config.get("canary") or {}), len(run.models()), len(run.checkpoints()),
        guard.level, guard.top_k, guard.keeps_label, run.guard == Run(run.folder).guard, config["seed"],
        run.has_weights() or list(saved(run, "pool").dtype.names or ()),
    ]  # fmt: skip
    return json.dumps(facts, sort_keys=True, default=str)


def _seconds_a_record(work: Callable[[], object], records: int) -> Seconds:
    started = time.thread_time()
    work()
    return (time.thread_time() - started) / records
