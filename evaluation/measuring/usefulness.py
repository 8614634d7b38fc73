"""Usefulness of a run's models, on test records and on each model's own members."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from palisade.attacks.parts.answers import MappedAnswers
from palisade.data.dataset import Dataset
from palisade.data.labels import largest_share
from palisade.data.sequences import NO_TOKEN
from palisade.data.slices import Slices
from palisade.evaluation.measuring.baselines import of_base
from palisade.evaluation.measuring.leakage import MIN_RECORDS_PER_SIDE, numbers
from palisade.evaluation.result import LARGEST_CLASS, TRAIN_ACCURACY, Row
from palisade.evaluation.signals.documents import base_rows, texts_of
from palisade.evaluation.signals.saved import predictions
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean
from palisade.evaluation.utility import (
    CALIBRATION_METRIC,
    DOCUMENT_MEASURES,
    UTILITY_MEASURES,
    document_measures,
    measures,
)
from palisade.targets.run import Run

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
