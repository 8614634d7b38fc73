"""Measurement of runs: scores of their attacks, leakage, utility and per-record vulnerability."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from palisade.attacks import Attack, LossThreshold, View
from palisade.attacks.parts.answers import MappedAnswers
from palisade.data.dataset import Dataset
from palisade.data.labels import largest_share
from palisade.data.sequences import NO_TOKEN
from palisade.data.slices import NO_SLICES, Slices
from palisade.data.split import Membership
from palisade.evaluation.claims import FAMILYWISE_ALPHA, record_way
from palisade.evaluation.epsilon_audit import audit_records
from palisade.evaluation.measuring.baselines import (
    DUPLICATE_SHARE,
    duplicated_share,
    linear_utilities,
    of_base,
    spread_rows,
)
from palisade.evaluation.measuring.exposure import ASSUMED_SPREAD, Exposure, over_dispersion
from palisade.evaluation.measuring.extraction import EXPOSED_SUFFIX, SECRET_EXPOSURE, shortest_prefixes
from palisade.evaluation.measuring.leakage import (
    MIN_RECORDS_PER_SIDE,
    leakage,
    leakage_of_groups,
    mean_roc,
    null_rows,
    null_rows_of_groups,
    numbers,
)
from palisade.evaluation.measuring.private_linear import private_linear_utilities
from palisade.evaluation.measuring.recitation import recitation_rows, secret_scores
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import LARGEST_CLASS, TRAIN_ACCURACY, Result, Row
from palisade.evaluation.signals.documents import base_rows, texts_of
from palisade.evaluation.signals.saved import predictions
from palisade.evaluation.signals.shadows import mismatch_view
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean
from palisade.evaluation.subjects.subject import BudgetSpentError, FleetSubject, Subject
from palisade.evaluation.utility import (
    CALIBRATION_METRIC,
    DOCUMENT_MEASURES,
    UTILITY_MEASURES,
    Utility,
    document_measures,
    measures,
)
from palisade.targets import engines, progress
from palisade.targets.config import at_either_end, validate_guessed_records
from palisade.targets.files import write_json
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run

BUDGET_SPENT = "the budget of queries is spent, raise it with budget=<queries>: answers so far are kept"


class AttackScores(NamedTuple):
    """Scores of attacks on one subject.

    Args:
        scores: by attack, (models, records).
        needs: by name, the threat model in words (`text`), its way in a layman's words (`idea`), the queries a record
            that it declares (`declared`) and those that it made (`measured`).
        skipped: by name, the reason why an attack did not run.
    """

    scores: Mapping[Attack, Float[np.ndarray, "models records"]]
    needs: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]


def score_all(subject: Subject, attacks: Iterable[Attack], view: View, models: int) -> AttackScores:
    """Runs every attack that the subject allows for.

    Args:
        subject: that is attacked.
        attacks: those that were chosen.
        view: what they see.
        models: number of targets; shadows of another run may follow them in the view.
    """
    scores: dict[Attack, Float[np.ndarray, "models records"]] = {}
    needs: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for attack in map(subject.suited, applicable(attacks, view)):
        if (reason := subject.lacking(attack, view)) is not None:
            skipped[attack.name] = reason
            continue
        try:
            result, queries = attack.run(view)
        except BudgetSpentError:
            skipped[attack.name] = f"needs up to {attack.threat.queries} queries a record; {BUDGET_SPENT}"
            continue
        if _fewest_scored(result[:models], view.membership[:models]) < subject.fewest_scored:
            skipped[attack.name] = subject.too_few_scored
            continue
        scores[attack] = result[:models]
        needs[attack.name] = {
            "text": attack.threat.describe(), "idea": attack.idea, "declared": attack.threat.queries,
            "measured": queries,
        }  # fmt: skip
    return AttackScores(scores, needs, skipped)


def applicable(attacks: Iterable[Attack], view: View) -> list[Attack]:
    """Attacks on data of this kind: lists hold attacks on texts, too, which say nothing where there are none.

    Args:
        attacks: those that were chosen; if all of them are attacks on texts, they stay, to be skipped with the reason.
        view: what they see.
    """
    chosen = list(attacks)
    return chosen if view.tokens is not None else [each for each in chosen if not each.threat.tokens] or chosen


def _fewest_scored(scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]) -> int:
    """Scored members or non-members in the attacked model that has fewest; an attack may leave models out."""
    scored = ~np.isnan(scores)
    attacked = scored.any(axis=1)
    counts = [(scored & side).sum(axis=1)[attacked] for side in (membership, ~membership)]
    return int(np.min(counts)) if attacked.any() else 0


UTILITY_METRICS = (*(utility.metric for utility in UTILITY_MEASURES.values()), CALIBRATION_METRIC)
BOUNDED_METRICS = {utility.metric for utility in UTILITY_MEASURES.values() if utility.higher_is_better}
"""Metrics that cannot exceed 1, as resampled contributions may by a little."""


def usefulness(run: Run, bootstrap: Bootstrap, slices: Slices) -> Iterator[Row]:
    """Every measure on test records, accuracy on each model's own members, and whether canaries were learned at all.

    A measure that the answers do not allow, such as the log loss of models behind a guard that lets out labels only,
    has no value.
    """
    if run.dataset.positional:
        yield from usefulness_of_documents(run, bootstrap)
        return
    data, split = run.dataset, run.dataset.split
    # Test records and the fixed part of a canary run are not the audited records: no persons group them.
    alone = Bootstrap(seed=bootstrap.seed, groups=bootstrap.groups)
    outputs, labels, level = answers(run, "test"), data.y[split.test], run.registered_guard.level
    for metric, values in contributions(outputs, labels, level):
        yield row(metric, values, alone)
        yield from rows_of_models(metric, values)
    for group, inside in groups(data, split.test, slices):
        for metric, values in contributions(outputs.about(inside), labels[inside], level):
            yield row(metric, values, alone, group=group)
    if len(labels):
        yield Row(metric=LARGEST_CLASS, value=largest_share(labels))
    members = np.where(run.membership(), predictions(run, "pool") == data.y[split.pool], np.nan)
    yield row(TRAIN_ACCURACY, members, alone if len(split.canaries) else bootstrap)
    yield from rows_of_models(TRAIN_ACCURACY, members)
    if len(split.canaries):
        yield canaries_fitted(members[:, split.is_audited])


def usefulness_of_documents(run: Run, bootstrap: Bootstrap) -> Iterator[Row]:
    """Every measure of language models on test documents, and the share of right tokens of each model's own members."""
    data, split = run.dataset, run.dataset.split
    alone = Bootstrap(seed=bootstrap.seed, groups=bootstrap.groups)
    if len(split.test) >= MIN_RECORDS_PER_SIDE:
        lengths = np.array([len(text) for text in texts_of(data, data.y[split.test])])
        of_models = [document_measures(rows, lengths) for rows in answers(run, "test")]
        for metric in of_models[0]:
            values = np.stack([of_model[metric] for of_model in of_models])
            yield row(metric, values, alone)
            yield from rows_of_models(metric, values)
        if (of_public := base_rows(run, "test")) is not None:
            for metric, own in document_measures(of_public, lengths).items():
                yield row(of_base(metric), own[None], alone)
    else:
        yield from (Row(metric=utility.metric, value=None) for utility in DOCUMENT_MEASURES.values())
    counts = (data.y[split.pool] != NO_TOKEN).sum(axis=1)
    right = np.stack([rows["greedy"].sum(axis=1) / counts for rows in answers(run, "pool")])
    members = np.where(run.membership(), right, np.nan)
    yield row(TRAIN_ACCURACY, members, alone if len(split.canaries) else bootstrap)
    yield from rows_of_models(TRAIN_ACCURACY, members)
    if len(split.canaries):
        yield canaries_fitted(members[:, split.is_audited])


def canaries_fitted(right: Float[np.ndarray, "models canaries"]) -> Row:
    """Share of the canaries that models which were trained on them answer right, or of documents most tokens.

    Args:
        right: share that is right, NaN where a model was not trained on a canary.
    """
    trained_on = ~np.isnan(right).all(axis=0)
    return Row(metric="canaries_fitted", value=float((np.nanmean(right[:, trained_on], axis=0) > 0.5).mean()))


def groups(
    data: Dataset, records: Int64[np.ndarray, "records"], slices: Slices
) -> Iterator[tuple[str, Bool[np.ndarray, "records"]]]:
    """The parts by which results are read: classes, such as `class=3`, and slices, such as `sex=f`."""
    labels = data.labels[records]
    if not data.positional:  # documents are all of one class
        yield from ((f"class={label}", labels == label) for label in np.unique(labels))
    yield from slices.groups(records)


def contributions(
    outputs: MappedAnswers | Shaped[np.ndarray, "models records *classes"],
    labels: Int64[np.ndarray, "records"],
    level: str,
) -> Iterator[tuple[str, Float[np.ndarray, "models records"]]]:
    """Contributions of the records to every measure; NaN where answers do not allow it, or records are too few."""
    values = measures(outputs, labels, level) if len(labels) >= MIN_RECORDS_PER_SIDE else {}
    for metric in UTILITY_METRICS:
        yield metric, values.get(metric, np.full((len(outputs), len(labels)), np.nan))


def row(metric: str, values: Float[np.ndarray, "models records"], bootstrap: Bootstrap, group: str = "all") -> Row:
    """The mean over the fleet with its interval; no value where no record contributes."""
    result = {} if np.isnan(values).all() else numbers(fleet_mean(values, bootstrap))
    if metric in BOUNDED_METRICS and result:
        result["high"] = min(result["high"], 1.0)
    counted = None if group == "all" else values.size  # no model was trained on a test record
    return Row(metric=metric, group=group, nonmembers=counted, **{"value": None, **result})


def rows_of_models(metric: str, values: Float[np.ndarray, "models records"]) -> Iterator[Row]:
    """Each model's own mean."""
    for model, own in enumerate(values):
        contributed = own[~np.isnan(own)]
        yield Row(metric=metric, model=model, value=float(contributed.mean()) if len(contributed) else None)


def results_of(runs: Sequence[Run], protocol: AttackProtocol) -> list[Result]:
    """Result of attacks on runs: kept from an earlier call where nothing has changed, otherwise measured."""
    missing = [run for run in runs if stored_result(run, protocol) is None]
    measured: dict[tuple[Path, str], Result] = {}
    for run in missing:
        train_shadows_of(run, protocol)
    if missing:
        with progress.Progress(missing[0].folder.parent, len(missing), "runs attacked"):
            items = [(run.folder, run.guard, protocol) for run in missing]
            measured = dict(engines.run(measure_and_keep, items, "auto", [run.folder for run in missing]))
    # Another evaluation may have put its own in the place of what was just measured.
    results = (measured.get((run.folder, run.guard)) or stored_result(run, protocol) for run in runs)
    return [result for result in results if result is not None]


def train_shadows_of(run: Run, protocol: AttackProtocol) -> None:
    """Trains the further shadows that attacks ask for by all worker processes: within one, a run has but that one."""
    attacks = [attack for attack in protocol.attacks_on(run) if attack.threat.further_shadows]
    if attacks:
        seen = view(run, protocol.grant, protocol.queries, [attack.threat for attack in attacks])
        for attack in attacks:
            if attack.missing(seen) is None:
                attack.run(seen)  # for the files of the models alone


def measure_and_keep(folder: Path, guard: str, protocol: AttackProtocol) -> tuple[tuple[Path, str], Result]:
    """The work item of a process: one run."""
    run = Run(folder, guard)
    measured = {"key": protocol.key(run), "models": len(run.models())}  # before others may extend the run
    content = {**measured, "results": measure(run, protocol).to_json()}
    write_json(run.metrics, content)
    progress.report(run.name, 1)
    # As from the file, so that a report is the same whether it was measured for it or before.
    return (folder, guard), of_json(run, json.loads(json.dumps(content["results"])), protocol.read_on(run))


def stored_result(run: Run, protocol: AttackProtocol) -> Result | None:
    """The results of this protocol on these very models, if they are there."""
    if not run.metrics.exists() or (content := json.loads(run.metrics.read_text()))["key"] != protocol.key(run):
        return None
    return of_json(run, content["results"], protocol.read_on(run))


def of_json(run: Run, content: Mapping[str, Any], utility: Utility) -> Result:
    """The result of a run from what `Result.to_json` wrote."""
    rows = [Row(**row) for row in content["rows"]]
    roc = {attack: (fprs, tprs) for attack, (fprs, tprs) in content["roc"].items()}
    return FleetSubject(run).result(**{**content, "rows": rows, "roc": roc}, utility=utility)


def measure(run: Run, protocol: AttackProtocol, source: Run | None = None, *, bounds: bool = True) -> Result:
    """Attacks a run; the strongest attack is also looked at by class, by slice and by record.

    Args:
        run: whose models are the targets.
        protocol: how they are attacked.
        source: another run whose models are the shadows, instead of the run's own.
        bounds: whether ε is bounded from below: one way more of auditing the run, for which others pay.
    """
    attacks, auditor = protocol.attacks_on(run), protocol.audit
    threats = [attack.threat for attack in (*attacks, auditor)]
    subject = FleetSubject(run)
    seen = subject.view(protocol.grant, protocol.queries, threats)
    attack_view = (
        seen if source is None else mismatch_view(seen, view(source, protocol.grant, protocol.queries, threats))
    )
    bootstrap = Bootstrap(seed=run.config["seed"], groups=seen.groups, persons=seen.persons)
    slices = protocol.slices_of(run)
    rows = [*usefulness(run, bootstrap, slices), *of_data(run), *spread_rows(seen)]
    scores, needs, skipped = score_all(subject, attacks, attack_view, seen.models)
    for attack, result in scores.items():
        rows += leakage(attack, result, seen, bootstrap)
    rows += null_rows(scores, seen, bootstrap.seed)
    rows += recitation_rows(run, seen, bootstrap)
    results = subject.result(
        rows=rows,
        roc={attack.name: mean_roc(scores[attack], seen.membership) for attack in scores},
        skipped=skipped,
        needs=needs,
        threat=protocol.grant.access,
        released=protocol.grant.behind(run.registered_guard),
        audit=lower_bounds(run, auditor, seen, protocol.way_on(run)) if bounds else {},
    )
    for attack in scores:
        if attack.name == results.strongest:
            split = run.dataset.split
            sliced = NO_SLICES if len(split.canaries) else slices  # a canary is nobody's record
            parts = list(groups(run.dataset, split.audited, sliced))
            of_groups = [
                *leakage_of_groups(attack, scores[attack], seen, bootstrap, parts),
                *null_rows_of_groups(attack, scores[attack], seen, bootstrap.seed, parts),
            ]
            spread = over_dispersion(attack, scores[attack], seen) if source is None else ASSUMED_SPREAD
            exposure = Exposure.of(scores[attack], seen.membership, seen.labels, split.audited, spread)
            resolved = exposure.to_json() if exposure.models.any() else {}
            if resolved and seen.tokens is not None and seen.tokens.greedy is not None:
                resolved["prefix"] = shortest_prefixes(seen.tokens, seen.membership, EXPOSED_SUFFIX)
            return replace(results, rows=[*rows, *of_groups], exposed=resolved)
    return results


def of_data(run: Run) -> Iterator[Row]:
    """Facts of the run's data: the number of records with copies, and the utility of linear models.

    One of them is without protection, the other under the run's own claim if that is a finite ε for one record.
    """
    data, membership = run.dataset, Membership(**run.config["membership"])
    yield Row(metric=DUPLICATE_SHARE, value=duplicated_share(data))
    size = membership.public_size(len(data.split.pool), len(data.split.canaries))
    for metric, value in linear_utilities(data, size, run.config["seed"]).items():
        yield Row(metric=metric, value=value)
    claim = run.statement
    if claim.unit != "record" or not claim.delta or claim.epsilon is None or math.isinf(claim.epsilon):
        return
    utilities = private_linear_utilities(data, size, run.config["seed"], claim.epsilon, claim.delta)
    for metric, value in utilities.items():
        yield Row(metric=metric, value=value)


def lower_bounds(run: Run, auditor: Attack, seen: View, way: Mapping[str, Any]) -> dict[str, Any]:
    """Lower bounds on ε of model 0, from guesses at who was in its training set; empty where they would be invalid.

    The bounds need memberships drawn independently with probability ½, hence neither a fixed split nor persons with
    several records. Where the auditor cannot run, as without checkpoints, the loss takes its place; of secrets, the
    guesses go by their exposure. Each bound is wrong with a probability of at most 0.05 over the number of ways in
    which the run was ever audited.

    Args:
        run: whose model 0 is audited.
        auditor: scores the records.
        seen: what it sees.
        way: of auditing the run, as `AttackProtocol.way_on` gives it; recorded before anything is guessed.

    Raises:
        ValueError: if it guesses nobody.
    """
    membership = Membership(**run.config["membership"])
    if (membership.how, membership.share) != ("bernoulli", 0.5):
        return {}
    if (of_secrets := secret_scores(run)) is not None:
        name, (scores, members) = SECRET_EXPOSURE, of_secrets
        if not at_either_end(float(way["guesses"]), len(scores)):
            return {}
    else:
        if auditor.missing(seen) is not None:
            auditor = LossThreshold()
        if auditor.missing(seen) is not None:
            return {}
        if seen.persons is not None and len(np.unique(seen.persons)) < seen.records:
            return {}
        name, scores, members = auditor.name, auditor.score(seen)[0], seen.membership[0]
    scored = ~np.isnan(scores)
    if min(members[scored].sum(), (~members[scored]).sum()) < 2:
        return {}
    size = membership.public_size(len(run.dataset.split.pool), len(run.dataset.split.canaries))
    delta = run.statement.delta or Recipe.of(run.config).schedule(size).delta
    guesses = float(way["guesses"])
    validate_guessed_records("threat.guesses", guesses, int(scored.sum()))
    ways = record_way(run, way)
    result = audit_records(
        scores[scored],
        members[scored],
        delta=delta,
        guesses=guesses,
        alpha=FAMILYWISE_ALPHA / ways,
        seed=run.config["seed"],
    )
    return {"attack": name, "ways": ways, **result.to_json()}
