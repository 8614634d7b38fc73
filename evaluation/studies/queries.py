"""Studies of queries: members found by the different records that a key may ask about, and by queries a record.

**Measured** is each attack's TPR at 1 % FPR with its interval, as in every evaluation, of an attacker who asks about
all audited records. Of the attacks that ask k times about a record, votes are measured with k − 1 copies, HopSkipJump
with up to k queries, and attacks on scores with k ways of putting an image; all others ask as often as they do anyway.

**Counted** is everything else:

- The rate at k queries a record is that of the strongest attack which needs at most k. At k = 1 these are the ordinary
  attacks with their ordinary numbers.
- B different records a key suffice for ⌊(B − b)/d⌋ people, at most for the pool. An attack asks about d different
  inputs for each of them, the record and its copies, and about b records of its own before: the population that it
  compares with. One that scores a record by the answers about all others counts only where B suffices for the pool.
- Of t people who are drawn from the pool, t · share · TPR members are found on average, at the share of members of the
  draw (`membership.share`). That is exact, as everybody is drawn alike; the interval is that of the TPR. Of the others
  1 % are accused.
- A pool of fewer people than a budget suffices for is tested whole, and no larger one was measured: nothing is
  extrapolated.

It is one attack throughout: whoever asks once about everybody, and again about those who look like members, may find
more.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from palisade.attacks import Attack, View, Votes
from palisade.attacks.boundary import MIN_BUDGET, Boundary
from palisade.attacks.parts.perturbed_copies import PerturbedCopies
from palisade.data.queries import PLAIN_QUERY, QUERY_AUGMENTATIONS
from palisade.data.settings import instantiated
from palisade.data.split import Membership
from palisade.evaluation.comparison import check_comparable, ordered
from palisade.evaluation.labels import label
from palisade.evaluation.measuring.leakage import leakage
from palisade.evaluation.measuring.measure import applicable, score_all
from palisade.evaluation.protocol import PROTOCOL_VERSION, AttackProtocol
from palisade.evaluation.result import LEAST_TARGETS, TARGET_COUNT, Row
from palisade.evaluation.signals.grant import ANSWER_LEVELS, Grant
from palisade.evaluation.signals.stored import stamp
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.studies.studies import LEAKAGE_METRICS, TPR, StudyRow, labels
from palisade.evaluation.subjects.subject import FleetSubject
from palisade.targets import engines, progress
from palisade.targets.guards import LabelOnly, Rounding, TopK
from palisade.targets.run import Run, canonical

QUERIES_STUDY = "queries"
"""Name of the study, and of its folder beside a report."""
QUERIES_AXIS, RECORDS_AXIS = "queries a record", "different records a key"
STRONGEST_TPR, MEMBER_COUNT = f"strongest_{TPR}", "members_found"
MAX_QUERIES = 10_000
"""Queries a record, at most: more would take hours, and find hardly more."""
MANY_QUERIES = ("votes", "augmentation_agreement", "boundary")
"""Attacks of `conf/attack` that ask several times about a record; they are measured whatever was chosen."""
TOO_FEW_OTHERS = "fewer than 100 non-members a model: 1 % of them is less than one"
WHOLE_POOL = "tests all"
"""Beginning of the note on a budget that suffices for everybody."""
FEW_TARGETS = "attacks few of the models only, which says little on the others"


@dataclass(frozen=True, kw_only=True)
class GuardedLine:
    """Models behind a guard, or at a level of their answers: one line of the study.

    Args:
        run: with the guard before its models.
        grant: that attackers get besides.
        title: in a few words, such as `undefended, top-3`.
    """

    run: Run
    grant: Grant
    title: str

    @property
    def source(self) -> tuple[Run, Grant]:
        """Models and grant by which attacks on labels are measured: one for all guards that keep the model's label."""
        keeps_label = self.run.registered_guard.keeps_label and self.grant.decimals is None
        if keeps_label and self.run.has_weights():
            return Run(self.run.folder), Grant(outputs="label")
        return self.run, self.grant


@dataclass(frozen=True, kw_only=True)
class AttackRate:
    """Metrics of an attack on one line, and its price.

    Args:
        attack: its name, with its queries where these are several.
        queries: a record, to the target.
        inputs: that differ among these: what one person costs of a budget of different records.
        beforehand: records of the attacker's own that the target is asked about before anybody is tested.
        needs_all: whether scoring one record takes the answers about all others.
        rows: metrics of the fleet by name; empty where it was skipped.
        note: the reason why it was skipped, or has no TPR.
    """

    attack: str
    queries: int = 1
    inputs: float = 1.0
    beforehand: int = 0
    needs_all: bool = False
    rows: Mapping[str, Row]
    note: str = ""

    @property
    def tpr(self) -> float | None:
        """TPR at 1 % FPR; None where there is none."""
        return self.rows[TPR].value if self.rows else None

    def people(self, budget: int, pool: int) -> int:
        """People of a pool who can be tested with so many different records."""
        tested = min(pool, int(max(0, budget - self.beforehand) / self.inputs))
        return 0 if self.needs_all and tested < pool else tested


def query_rows(
    runs: Sequence[Run],
    protocol: AttackProtocol,
    *,
    levels: Sequence[Grant],
    records: Sequence[int],
    queries: Sequence[int],
) -> list[StudyRow]:
    """Rates of every attack on every line, and of the strongest at each point of both axes.

    Args:
        runs: complete and comparable, each once for every guard; those with canaries are left out.
        protocol: how they are attacked.
        levels: of answers at which undefended models are attacked besides (all models where none are).
        records: budgets of different records a key.
        queries: numbers of queries a record.

    Raises:
        ValueError: if attackers are granted the weights, all runs have canaries, or they are not comparable.
    """
    if protocol.grant.weights:
        raise ValueError(
            "threat.weights=true: expected false with study=queries, since whoever holds the model asks it as often as"
            " they like; choose threat=black_box or threat=label_only"
        )
    compared = [run for run in runs if not len(run.dataset.split.canaries)]
    if not compared:
        raise ValueError(
            f"study={QUERIES_STUDY}: expected a run that is attacked on its own records, and all have canaries in their"
            " place; choose runs that were trained without canary=…"
        )
    if left_out := len(runs) - len(compared):
        progress.say(f"left out: {left_out} of {len(runs)} runs, whose members are canaries and no people")
    check_comparable(compared)
    lines = lines_of(compared, protocol.grant, levels)
    points = sorted(set(queries))
    # Labels of several guards are those of the model: asked once.
    shared = {line.source: (*line.source, protocol, points, True) for line in lines}
    own = {(line.run, line.grant): (line.run, line.grant, protocol, points, False) for line in lines}
    work = [*own.values(), *shared.values()]
    with progress.Progress(runs[0].folder.parent, len(work), "guards attacked"):
        items = [(place, *item) for place, item in enumerate(work)]
        measured = dict(engines.run(measured_rates, items, "auto", [run.folder for run in compared]))
    places = {key: place for place, key in enumerate([*own, *((*source, "labels") for source in shared)])}
    rows: list[StudyRow] = []
    for line in lines:
        rates = measured[places[line.run, line.grant]] + measured[places[(*line.source, "labels")]]
        rows += rows_of(line, rates, protocol, sorted(set(records)), points)
    return rows


def lines_of(runs: Sequence[Run], grant: Grant, levels: Sequence[Grant]) -> list[GuardedLine]:
    """A line for every run and guard, and one for each level before models that promise nothing.

    A level is left out where attackers see less anyway, where a guard of the run does the same, and where answers are
    no longer there to be cut, or are those of a language model.

    Args:
        runs: each once for every guard.
        grant: of the threat model.
        levels: that could be put before the models.
    """
    lines: list[GuardedLine] = []
    promised = {run.folder for run in runs if run.statement.guarantee}
    chosen = {run.folder for run in runs} - promised or promised
    for run, title in titled(runs):
        lines.append(GuardedLine(run=run, grant=grant, title=title))
        if run.folder not in chosen or run.dataset.positional or run != Run(run.folder):
            continue
        same = [_level_of(other) for other in runs if other.folder == run.folder]
        lines += [
            GuardedLine(run=run, grant=level, title=f"{title}, {level.level}")
            for level in levels
            if _shows_less(level, grant) and level not in same and (run.has_weights() or level.outputs == "label")
        ]
    return lines


def titled(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Runs in the order of every table, each by its defense and guard, and by what else differs where these do not."""
    results = {run.name: FleetSubject(run).result(rows=(), roc={}, skipped={}) for run in runs}
    long = dict(zip(results, labels(list(results.values())), strict=True))
    short = {name: label(result) for name, result in results.items()}
    several = {title for title, count in Counter(short.values()).items() if count > 1}
    by_name = {run.name: run for run in runs}
    placed = ordered(list(results.values()))
    folders = list(dict.fromkeys(result.folder for result in placed))  # guards stand below their models
    return [
        (by_name[result.run], long[result.run] if short[result.run] in several else short[result.run])
        for result in sorted(placed, key=lambda result: folders.index(result.folder))
    ]


def _shows_less(level: Grant, grant: Grant) -> bool:
    """A level that holds something back of what attackers are granted."""
    whole = (grant.decimals, grant.top_k) == (None, None)
    place, granted = ANSWER_LEVELS.index(level.outputs), ANSWER_LEVELS.index(grant.outputs)
    return (place < granted and (whole or level.outputs == "label")) or (whole and place == granted and level != grant)


def _level_of(run: Run) -> Grant | None:
    """Level of answers that does what the guard of a run does; None where there is none."""
    guard = run.registered_guard
    if not isinstance(guard, LabelOnly | TopK | Rounding):
        return None
    decimals = guard.decimals if isinstance(guard, Rounding) else None
    return Grant(outputs=guard.level, top_k=guard.top_k, decimals=decimals)


def measured_rates(
    place: int, run: Run, grant: Grant, protocol: AttackProtocol, queries: Sequence[int], of_labels: bool
) -> tuple[int, list[AttackRate]]:
    """The work item of a process: attacks on one line.

    Args:
        place: of the item.
        run: with the guard before its models.
        grant: that attackers get.
        protocol: how they attack otherwise.
        queries: a record.
        of_labels: whether these are the attacks that ask about inputs of their choice, or all others.
    """
    subject, rates = FleetSubject(run), []
    for ways, attacks in asking(run, protocol, queries, of_labels):
        seen = subject.view(grant, ways, [attack.threat for attack in attacks])
        bootstrap = Bootstrap(seed=run.config["seed"], groups=seen.groups, persons=seen.persons)
        for attack in applicable(attacks, seen):
            rates.append(rate_of(subject, attack, seen, bootstrap))
    progress.report(run.name, 1)
    return place, rates


def asking(
    run: Run, protocol: AttackProtocol, queries: Sequence[int], of_labels: bool
) -> Iterator[tuple[Sequence[str], list[Attack]]]:
    """Ways of putting each record, and the attacks that are measured by them.

    Args:
        run: that is attacked.
        protocol: attacks and ways that were chosen.
        queries: a record.
        of_labels: as of `measured_rates`.
    """
    chosen = protocol.nodes_on(run)
    nodes = {name: protocol.adaptive[name] for name in MANY_QUERIES if name in protocol.adaptive} | chosen
    attacks = {name: instantiated(f"attack.{name}", node, Attack) for name, node in nodes.items()}
    ordinary = [attacks[name] for name in chosen if attacks[name].threat.free_queries == of_labels]
    if of_labels:
        varied = [attack for k in queries for attack in asking_often(run, attacks, nodes, k)]
        yield protocol.queries, list(dict.fromkeys([*ordinary, *varied]))
        return
    yield protocol.queries, ordinary
    if run.dataset.x.ndim == 4 and run.has_weights() and list(protocol.queries) == list(PLAIN_QUERY):
        several = [attack for attack in attacks.values() if attack.threat.queries is None]
        ways = list(QUERY_AUGMENTATIONS)
        yield from ((ways[:k], several) for k in queries if 1 < k <= len(ways))


def asking_often(run: Run, attacks: Mapping[str, Attack], nodes: Mapping[str, Any], k: int) -> Iterator[Attack]:
    """Attacks on labels with k queries a record: votes of k − 1 copies that mostly differ, a boundary by k steps.

    Args:
        run: whose records are copied and moved.
        attacks: by name.
        nodes: their settings.
        k: queries a record.
    """
    for name in (name for name in MANY_QUERIES if name in attacks and not run.dataset.positional):
        if isinstance(attacks[name], Votes) and k > 1:
            votes = instantiated(f"attack.{name}", {**nodes[name], "copies": k - 1}, Votes)
            differing = votes.without_repeats(run.dataset.x[run.dataset.split.audited])
            yield from () if differing is None else (differing,)
        if isinstance(attacks[name], Boundary) and k >= MIN_BUDGET:
            yield instantiated(f"attack.{name}", {**nodes[name], "budget": k}, Boundary)


def rate_of(subject: FleetSubject, attack: Attack, seen: View, bootstrap: Bootstrap) -> AttackRate:
    """Metrics and price of an attack, as an evaluation measures them.

    Args:
        subject: that is attacked.
        attack: on all of its records.
        seen: by the attack.
        bootstrap: how models and records are resampled.
    """
    results = score_all(subject, [attack], seen, seen.models)
    if attack.name in results.skipped:
        return AttackRate(attack=attack.name, rows={}, note=results.skipped[attack.name])
    rows = {
        row.metric: row
        for row in leakage(attack, results.scores[attack], seen, bootstrap)
        if row.model == row.group == "all"
    }
    if TARGET_COUNT in rows and (rows[TARGET_COUNT].value or 0) < LEAST_TARGETS:
        return AttackRate(attack=attack.name, rows={}, note=FEW_TARGETS)
    queries = round(results.needs[attack.name]["measured"])
    inputs = float(queries)
    if isinstance(attack, PerturbedCopies):  # shadows, which are asked besides, are the attacker's own
        assert seen.features is not None or not attack.copies
        queries = 1 + attack.copies
        inputs = queries if seen.features is None else attack.different_inputs(seen.features)
    elif attack.threat.free_queries:
        queries = attack.threat.queries or queries
        inputs = float(queries)
    return AttackRate(
        attack=attack.name + (f", {queries} queries" if queries > 1 else ""),
        queries=queries,
        inputs=inputs,
        beforehand=seen.population.records if attack.threat.population and seen.population is not None else 0,
        needs_all=attack.threat.known_members or attack.threat.independent_membership,
        rows=rows,
        note=TOO_FEW_OTHERS if rows[TPR].value is None else "",
    )


def rows_of(
    line: GuardedLine, rates: Sequence[AttackRate], protocol: AttackProtocol, records: Sequence[int],
    queries: Sequence[int],
) -> list[StudyRow]:  # fmt: skip
    """All that was measured on a line, and what follows by counting.

    Args:
        line: that was attacked.
        rates: of all attacks on it.
        protocol: how they were carried out.
        records: budgets of different records a key, rising.
        queries: numbers of queries a record, rising.
    """
    named: dict[str, Any] = {"target": line.title, "run": line.run.name, "key": key_of(line.run, protocol)}
    rows = [
        StudyRow(
            varied=QUERIES_AXIS, setting=str(rate.queries), attack=rate.attack, metric=metric, value=row.value,
            low=row.low, high=row.high, **named,
        )
        for rate in rates
        for metric, row in rate.rows.items()
        if metric in LEAKAGE_METRICS
    ]  # fmt: skip
    notes = dict.fromkeys((rate.attack, rate.note) for rate in rates if rate.note)
    rows += [
        StudyRow(varied=QUERIES_AXIS, setting="", attack=attack, metric=TPR, value=None, note=note, **named)
        for attack, note in notes
    ]
    resolved = [rate for rate in rates if rate.tpr is not None]
    for k in queries:
        best = strongest([(rate, 1.0) for rate in resolved if rate.queries <= k])
        rows.append(StudyRow(varied=QUERIES_AXIS, setting=str(k), metric=STRONGEST_TPR, **best, **named))
    pool = len(line.run.dataset.split.audited)
    share = Membership(**line.run.config["membership"]).share
    for budget in records:
        best = strongest([(rate, share * rate.people(budget, pool)) for rate in resolved])
        whole = any(rate.attack == best["attack"] and rate.people(budget, pool) == pool for rate in resolved)
        note = f"{WHOLE_POOL} {pool:,} records of the pool; no larger one was measured" if whole else ""
        rows.append(StudyRow(varied=RECORDS_AXIS, setting=str(budget), metric=MEMBER_COUNT, note=note, **best, **named))
    return rows


def strongest(choices: Sequence[tuple[AttackRate, float]]) -> dict[str, Any]:
    """Fields of a row: the attack that finds most, how many with its interval; of equal ones the one that asks least.

    Args:
        choices: attacks, each with the number of members, or of whatever its TPR is a share, that it tests.
    """
    if not choices:
        return {"attack": "", "value": None}
    rate, count = max(choices, key=lambda choice: (choice[1] * (choice[0].tpr or 0.0), -choice[0].queries))
    row = rate.rows[TPR]
    ends = {name: None if end is None else count * end for name, end in (("low", row.low), ("high", row.high))}
    return {"attack": rate.attack, "value": count * (row.value or 0.0), **ends}


def key_of(run: Run, protocol: AttackProtocol) -> str:
    """Digest of what decides the rows of a run besides the attacks that were tried: its very models, and the grant."""
    facts = [canonical([run.name, stamp(run), asdict(protocol.grant)]), PROTOCOL_VERSION]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
