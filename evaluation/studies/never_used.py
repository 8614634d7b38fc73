"""Studies of records that no model was trained on: how often they are accused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from palisade.attacks import Attack, View
from palisade.attacks.parts.perturbed_copies import perturbations
from palisade.data.columns import Columns, unknown_words_line
from palisade.data.dataset import Dataset
from palisade.data.settings import place
from palisade.evaluation.measuring.baselines import content_digest
from palisade.evaluation.protocol import PROTOCOL_VERSION, AttackProtocol
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import stamp
from palisade.evaluation.statistics.metrics import clopper_pearson_interval
from palisade.evaluation.studies.studies import FALSELY_ACCUSED, StudyRow, labels
from palisade.evaluation.subjects.saved_records import SavedRecords, read
from palisade.evaluation.subjects.subject import FleetSubject
from palisade.targets import engines, progress
from palisade.targets.run import Run, canonical

OUTSIDER_ROLES = ("test", "population", "reference", "validation")
MAX_PER_KIND = 500
"""Records of a kind; more cost time and change little."""
OUT_SETTING = "study.out"
OUT_CHOICES = f"choose {', '.join(OUTSIDER_ROLES)}, or an .npz or a .csv file"
THRESHOLD_FPR = 0.01
NEAR_DUPLICATES, CORRUPTED_COPIES = "near-duplicates of members", "corrupted"
PERTURBATION_STRENGTHS = {NEAR_DUPLICATES: 0.02, CORRUPTED_COPIES: 0.1}
"""Strength of the perturbation of a record, as in `PerturbedCopies`."""
SHARE_AT_ONCE = 0.005
"""Share of outsiders among the records of one view, too small to move a pooled variance or a tuned setting."""
NEEDS_THE_RECORD = (
    "need models trained on the very record, which there are none of, and the near-duplicate's original is another"
    " record; offline attacks can score it"
)
IS_POPULATION = "hold these very records as their population; choose study.out=test"
KNOWS_MEMBERS = "are told who was used"
TOO_FEW = f"have fewer than {round(1 / THRESHOLD_FPR)} non-members to set a threshold by; audit more records"

OutsideRecords = tuple[Real[np.ndarray, "n *shape"], Int[np.ndarray, "n"]]
"""Inputs and labels of records that were never used."""


def outside_records(run: Run, out: str) -> OutsideRecords:
    """Inputs and labels of at most `MAX_PER_KIND` records, drawn by a public seed.

    Args:
        run: whose models take the records.
        out: a role of its split; an .npz file with features as the models take them and labels; or, if the run's data
            are a table, a .csv file with its columns.

    Raises:
        ValueError: if there are no such records, the models cannot take them, or the pool holds some.
    """
    data = run.dataset
    if out in OUTSIDER_ROLES:
        records: Sequence[int] = getattr(data.split, out)
        if not len(records):
            raise ValueError(f"{OUT_SETTING}={out}: expected a role that holds records; choose e.g. test")
        return data.x[drawn := _drawn(records)], data.y[drawn]
    if not place(OUT_SETTING, out).is_file():
        raise ValueError(f"{OUT_SETTING}={out}: expected a file or a role; {OUT_CHOICES}")
    label = run.config["data"].get("label")
    if Path(out).suffix == ".csv" and label is None:
        raise ValueError(
            f"{OUT_SETTING}={out}: expected an .npz file, as the data of {run.folder} are no table; save one"
        )
    saved = read(OUT_SETTING, out, label)
    x = _inputs(saved, data)
    y = saved.numbered(data.classes)
    if not len(y):
        raise ValueError(f"{saved.name}: expected records, and the file holds none; choose another")
    if wrong := sorted(set(y.tolist()) - set(range(len(data.classes)))):
        raise ValueError(f"{saved.name}: label {wrong[0]} is no class; choose of 0..{len(data.classes) - 1}")
    x = _cast(saved, x, data.x.dtype)
    _check_outside(saved, x, y, data)
    drawn = _drawn(np.arange(len(y)))
    return x[drawn], y[drawn]


def _inputs(saved: SavedRecords, data: Dataset) -> Real[np.ndarray, "n *shape"]:
    """The records as the models take them."""
    expected = data.x.shape[1:]
    if saved.rows is None:
        raise ValueError(f"{saved.name}: features are missing; save them as the models take them, {expected} a record")
    if isinstance(saved.rows, np.ndarray):
        if saved.rows.shape[1:] != expected:
            raise ValueError(f"{saved.name}: features are {saved.rows.shape[1:]}; save {expected} a record")
        return saved.rows
    try:
        if not isinstance(data.preprocessing, Columns):
            return data.preprocessing(saved.rows)
        inputs, unknown = data.preprocessing.encode(saved.rows)
    except ValueError as error:
        raise ValueError(f"{saved.name}: {error}") from None
    if line := unknown_words_line(unknown):
        progress.say(f"{saved.name}: rows hold {line}")
    return inputs


def _cast(saved: SavedRecords, x: Real[np.ndarray, "n *shape"], kind: np.dtype[Any]) -> Real[np.ndarray, "n *shape"]:
    """The inputs as numbers of the kind that the models take."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = x.astype(kind)
    if not np.isfinite(cast).all():
        raise ValueError(f"{saved.name}: features hold numbers that {kind} cannot; scale them as the run's own")
    if kind.kind in "iu" and not np.array_equal(cast, x):
        raise ValueError(f"{saved.name}: features hold fractions; save them as the models take them, {kind} numbers")
    return cast


def _check_outside(
    saved: SavedRecords, x: Real[np.ndarray, "n *shape"], y: Int[np.ndarray, "n"], data: Dataset
) -> None:
    """Raises ValueError if models may have been trained on some of the records."""
    pool = {content_digest(data.x[record], data.y[record]) for record in data.split.pool.tolist()}
    if inside := sum(content_digest(row, label) in pool for row, label in zip(x, y, strict=True)):
        raise ValueError(
            f"{saved.name}: {inside} of its records are in the run's pool, where they may have been trained on;"
            " remove them"
        )


def _drawn(records: Sequence[int] | Int[np.ndarray, "records"]) -> Int[np.ndarray, "n"]:
    return np.random.default_rng(0).permutation(np.asarray(records))[:MAX_PER_KIND]


def never_used_rows(runs: Sequence[Run], protocol: AttackProtocol, out: str) -> list[StudyRow]:
    """False positive rates on records that were never used, of every run by its own shadows.

    Runs with canaries are left out, with a note: their thresholds are set by canaries, to which no other record
    compares.

    Args:
        runs: complete runs of one data set.
        protocol: how they are attacked.
        out: a role of the split, or a file of other records (`outside_records`).

    Raises:
        ValueError: if all runs have canaries, or there are no such records.
    """
    compared = [run for run in runs if not len(run.dataset.split.canaries)]
    if not compared:
        raise ValueError(
            f"{OUT_SETTING}={out}: expected a run that was attacked on its own records, and all have canaries in their"
            " place; choose runs that were trained without canary=…"
        )
    # What is wrong with them is said before anything is attacked, and nodes need not have the file.
    records = [outside_records(run, out) for run in compared]
    if left_out := len(runs) - len(compared):
        progress.say(f"left out: {left_out} of {len(runs)} runs, whose thresholds would be set by canaries")
    titles = labels([FleetSubject(run).result(rows=(), roc={}, skipped={}) for run in compared])
    items = [(place, run, protocol, out, records[place], titles[place]) for place, run in enumerate(compared)]
    with progress.Progress(runs[0].folder.parent, len(items), "runs attacked"):
        measured = dict(engines.run(outsider_rows_of, items, "auto", [run.folder for run in compared]))
    return [row for place in range(len(items)) for row in measured[place]]  # workers finish in any order


def outsider_rows_of(
    place: int, run: Run, protocol: AttackProtocol, out: str, records: OutsideRecords, target: str
) -> tuple[int, list[StudyRow]]:
    """The work item of a process: the rates of one run."""
    keys = keys_of(run, protocol)  # before others may extend the run
    named: dict[str, Any] = {"target": target, "varied": "never used", "metric": FALSELY_ACCUSED, "run": run.name}
    rows = [
        StudyRow(
            setting=kind, attack=attack, note=note, key=keys[attack], **named,
            **({"value": None} if rate is None else rate._asdict()),
        )
        for kind, attack, rate, note in accusations(run, protocol, out, records)
    ]  # fmt: skip
    progress.report(run.name, 1)
    return place, rows


class Rate(NamedTuple):
    """A false positive rate on outsiders.

    Args:
        value: the mean over models of the share of false positives.
        low: lower end of its 95 % interval.
        high: its upper end.
        expected: the same mean for records like the run's own non-members. Of n of these the threshold lets k = ⌊n/100⌋
            exceed it, and another one is above it with probability (k + 1) / (n + 1), which of few is more than 1 %.
    """

    value: float
    low: float
    high: float
    expected: float


@dataclass(frozen=True, kw_only=True)
class Outsiders:
    """Records on which no model was trained, with the answers of all models.

    Args:
        features: as the models take them.
        labels: the true classes.
        answers: at the level of what is released.
        is_counted: for which model which of them counts; all if None.
    """

    features: Real[np.ndarray, "n *shape"]
    labels: Int[np.ndarray, "n"]
    answers: Shaped[np.ndarray, "models n *classes"]
    is_counted: Bool[np.ndarray, "models n"] | None = None

    @classmethod
    def of(
        cls,
        seen: View,
        features: Real[np.ndarray, "n *shape"],
        labels: Int[np.ndarray, "n"],
        is_counted: Bool[np.ndarray, "models n"] | None = None,
    ) -> Outsiders:
        """Outsiders about which every model of the view is asked once."""
        query = seen.query
        assert query is not None
        answers = np.stack([query(model, features) for model in range(seen.models)])
        return cls(features=features, labels=labels, answers=answers, is_counted=is_counted)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Outsiders]:
        """Consecutive parts of at most so many records."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Outsiders(features=self.features[part], labels=self.labels[part], answers=self.answers[:, part])


def accusations(
    run: Run, protocol: AttackProtocol, out: str, records: OutsideRecords
) -> Iterator[tuple[str, str, Rate | None, str]]:
    """Kind of record, attack, its false positive rate on that kind, and the reason if it has none.

    Args:
        run: the run whose models are attacked.
        protocol: how; only one plain query is asked, and no weights are granted.
        out: a role of the split, or a file of other records.
        records: those of `outside_records`.

    Raises:
        ValueError: if the run holds signals alone.
    """
    if not run.has_weights():
        raise ValueError(
            f"out={out}: expected a run whose models answer, and {run.folder} holds their signals alone; train it again"
            " with fleet.keep=both"
        )
    seen = view(run, _grant(protocol))
    for kind, outsiders in outsiders_of(seen, out, records).items():
        for attack in protocol.attacks_on(run):
            reason = _no_score(attack, seen, kind)
            rate = None if reason else false_positive_rate(attack, seen, outsiders)
            yield kind, attack.name, rate, reason or (TOO_FEW if rate is None else "")


def keys_of(run: Run, protocol: AttackProtocol) -> dict[str, str]:
    """Digest of each attack, of what decides its rates: the very models, its settings, and what is granted.

    Other attacks decide nothing. A new secret and a further model make other models, whose files are digested: neither
    the secret nor anything that depends on it but these is in the digest.
    """
    models, grant = stamp(run), asdict(_grant(protocol))
    named = zip(protocol.attacks_on(run), protocol.nodes_on(run).values(), strict=True)
    texts = {
        attack.name: json.dumps([canonical([run.name, models, node, grant]), PROTOCOL_VERSION], sort_keys=True)
        for attack, node in named
    }
    return {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in texts.items()}


def _grant(protocol: AttackProtocol) -> Grant:
    """The grant without weights, which tell of the run's own records only."""
    return replace(protocol.grant, weights=False)


def outsiders_of(seen: View, out: str, records: OutsideRecords) -> dict[str, Outsiders]:
    """Records of `out`, corrupted copies of them, and near-duplicates of members, by kind."""
    x, y = records
    audited, rng = seen.features, np.random.default_rng(1)
    assert audited is not None
    chosen = np.sort(np.random.default_rng(0).permutation(seen.records)[:MAX_PER_KIND])
    weak, strong = perturbations(
        audited, [PERTURBATION_STRENGTHS[NEAR_DUPLICATES], PERTURBATION_STRENGTHS[CORRUPTED_COPIES]], moves=()
    )
    return {
        out: Outsiders.of(seen, x, y),
        CORRUPTED_COPIES: Outsiders.of(seen, strong(x, rng), y),
        NEAR_DUPLICATES: Outsiders.of(
            seen, weak(audited[chosen], rng), seen.labels[chosen], seen.membership[:, chosen]
        ),
    }


def false_positive_rate(attack: Attack, seen: View, outsiders: Outsiders) -> Rate | None:
    """Share of outsiders above the threshold that accuses 1 % of each model's own non-members.

    The mean over models. The interval is Clopper and Pearson's, for as many trials as there are records that count for
    some model: what several models say of one record is no further evidence.

    Args:
        attack: that needs no model trained on the record.
        seen: the fleet's own records.
        outsiders: records that were never used.

    Returns:
        None if no model has 100 scored non-members, the least that a threshold at 1 % takes.
    """
    own, foreign = scores(attack, seen, outsiders)
    accusable = ~np.isnan(foreign)
    if outsiders.is_counted is not None:
        accusable &= outsiders.is_counted
    shares, expected, counted = [], [], np.zeros(len(outsiders), dtype=bool)
    for model in range(seen.models):
        nonmembers = own[model, ~seen.membership[model]]
        nonmembers = np.sort(nonmembers[~np.isnan(nonmembers)])[::-1]
        above = int(THRESHOLD_FPR * len(nonmembers))
        if accusable[model].any() and above > 0:
            shares.append(float((foreign[model, accusable[model]] > nonmembers[above]).mean()))
            expected.append((above + 1) / (len(nonmembers) + 1))
            counted |= accusable[model]
    if not shares:
        return None
    value, trials = float(np.mean(shares)), int(counted.sum())
    return Rate(value, *clopper_pearson_interval(value * trials, trials), float(np.mean(expected)))


def scores(
    attack: Attack, seen: View, outsiders: Outsiders
) -> tuple[Float[np.ndarray, "models records"], Float[np.ndarray, "models n"]]:
    """Scores of the fleet's own records, and of outsiders.

    Attacks pool variances, tune settings and break ties over all records of a view. So own records are scored without
    any outsider, and outsiders a few at a time behind the own ones: what is pooled then comes from the run's records.
    Attacks with queries of their choice ask about all outsiders at once, or they would ask about own records each time.
    """
    size = len(outsiders) if attack.threat.free_queries else max(1, int(SHARE_AT_ONCE * seen.records))
    parts = [attack.score(with_outsiders(seen, batch))[:, seen.records :] for batch in outsiders.batches(size)]
    return attack.score(seen), np.hstack(parts)


def with_outsiders(seen: View, outsiders: Outsiders) -> View:
    """View with outsiders behind its own records."""
    assert seen.features is not None
    level = {"label": "predictions", "logits": "logits"}.get(seen.outputs, "probabilities")
    more: dict[str, Any] = {level: np.concatenate([getattr(seen, level), outsiders.answers], axis=1)}
    if seen.persons is not None:
        more["persons"] = np.concatenate([seen.persons, seen.persons.max() + 1 + np.arange(len(outsiders))])
    return replace(
        seen,
        labels=np.concatenate([seen.labels, outsiders.labels]),
        membership=np.hstack([seen.membership, np.zeros((seen.models, len(outsiders)), dtype=bool)]),
        features=np.concatenate([seen.features, outsiders.features]),
        unguarded_logits=None,
        **more,
    )


def _no_score(attack: Attack, seen: View, kind: str) -> str | None:
    """Reason why an attack has no score of these records, None if it has one."""
    if attack.threat.shadows == "online":
        return NEEDS_THE_RECORD
    if attack.threat.known_members:
        return KNOWS_MEMBERS
    if attack.threat.population and kind == "population":
        return IS_POPULATION
    without_shadows_of_a_guard = replace(seen, unguarded_logits=None)
    return attack.missing(without_shadows_of_a_guard)
