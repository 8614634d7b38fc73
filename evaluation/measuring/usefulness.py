"""Utility of a run's models, as rows: every measure on test records, of each model, class and slice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from palisade.data.dataset import Dataset
from palisade.data.slices import Slices
from palisade.evaluation.measuring.contributions import measures
from palisade.evaluation.measuring.leakage import LEAST, numbers
from palisade.evaluation.result import Row
from palisade.evaluation.signals.signals import answers, predictions
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean
from palisade.evaluation.utility import CALIBRATION, UTILITIES
from palisade.targets.run import Run

TRAIN = "train_accuracy"
METRICS = (*(utility.metric for utility in UTILITIES.values()), CALIBRATION)
BOUNDED = {utility.metric for utility in UTILITIES.values() if utility.higher_is_better}
"""Metrics that cannot exceed 1, as resampled contributions may by a little."""


def usefulness(run: Run, bootstrap: Bootstrap, slices: Slices) -> Iterator[Row]:
    """Every measure on test records, accuracy on each model's own members, and whether canaries were learned at all.

    A measure that the answers do not allow, such as the log loss of models behind a guard that lets out labels only,
    has no value.
    """
    data, split = run.dataset, run.dataset.split
    # Test records and the fixed part of a canary run are not the audited records: no persons group them.
    alone = Bootstrap(seed=bootstrap.seed, groups=bootstrap.groups)
    given, labels, level = answers(run, "test"), data.y[split.test], run.made_guard.level
    for metric, values in contributions(given, labels, level):
        yield row(metric, values, alone)
        yield from rows_of_models(metric, values)
    for group, inside in groups(data, split.test, slices):
        for metric, values in contributions(given[:, inside], labels[inside], level):
            yield row(metric, values, alone, group=group)
    members = np.where(run.membership(), predictions(run, "pool") == data.y[split.pool], np.nan)
    yield row(TRAIN, members, alone if len(split.canaries) else bootstrap)
    yield from rows_of_models(TRAIN, members)
    if len(split.canaries):
        canaries = members[:, split.is_audited]
        trained_on = ~np.isnan(canaries).all(axis=0)
        yield Row(metric="canaries_fitted", value=float((np.nanmean(canaries[:, trained_on], axis=0) > 0.5).mean()))


def groups(
    data: Dataset, records: Int64[np.ndarray, "records"], slices: Slices
) -> Iterator[tuple[str, Bool[np.ndarray, "records"]]]:
    """The parts by which results are read: classes, such as `class=3`, and slices, such as `sex=f`."""
    labels = data.y[records]
    yield from ((f"class={label}", labels == label) for label in np.unique(labels))
    yield from slices.groups(records)


def contributions(
    given: Shaped[np.ndarray, "models records *classes"], labels: Int64[np.ndarray, "records"], level: str
) -> Iterator[tuple[str, Float[np.ndarray, "models records"]]]:
    """Contributions of the records to every measure; NaN where answers do not allow it, or records are too few."""
    told = measures(given, labels, level) if len(labels) >= LEAST else {}
    for metric in METRICS:
        yield metric, told.get(metric, np.full((len(given), len(labels)), np.nan))


def row(metric: str, values: Float[np.ndarray, "models records"], bootstrap: Bootstrap, group: str = "all") -> Row:
    """The mean over the fleet with its interval; no value where no record contributes."""
    result = {} if np.isnan(values).all() else numbers(fleet_mean(values, bootstrap))
    if metric in BOUNDED and result:
        result["high"] = min(result["high"], 1.0)
    counted = None if group == "all" else values.size  # no model was trained on a test record
    return Row(metric=metric, group=group, nonmembers=counted, **{"value": None, **result})


def rows_of_models(metric: str, values: Float[np.ndarray, "models records"]) -> Iterator[Row]:
    """Each model's own mean."""
    for model, own in enumerate(values):
        contributed = own[~np.isnan(own)]
        yield Row(metric=metric, model=model, value=float(contributed.mean()) if len(contributed) else None)
