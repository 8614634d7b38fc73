"""Baselines that flags compare a run with: a linear model, copies of records in the pool, the spread of its models."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from palisade.attacks import View
from palisade.attacks.parts.signals import centers_and_spreads
from palisade.data.dataset import Dataset
from palisade.evaluation.measuring.contributions import measures
from palisade.evaluation.result import Row
from palisade.evaluation.utility import CALIBRATION

DUPLICATES = "duplicates"
"""The name of a metric: share of the records with a copy in the pool."""
SPREAD = "log_odds_spread"
"""The name of a metric: the spread of a model's log-odds over the median model's."""
SPREAD_RATIO = 10
"""A spread so many times that of the median model, or as small a part of it, is another kind of model's."""
LINEAR_RECORDS, LINEAR_STEPS = 5_000, 20
"""Enough for a level to compare with, in about two seconds at most."""


def linear(metric: str) -> str:
    """The name of a metric of a linear model, such as `linear_test_accuracy`."""
    return f"linear_{metric}"


@lru_cache(maxsize=2)
def linear_utilities(dataset: Dataset, size: int, seed: int) -> Mapping[str, float]:
    """Utility by every measure of multinomial logistic regression on the inputs of the networks, without protection.

    Args:
        dataset: whose inputs are numbers; nothing is measured where they are words.
        size: N, the public size of a model's training set; as many records of the pool are drawn, at most 5,000.
        seed: public; draws them.
    """
    split = dataset.split
    drawn = np.random.default_rng(seed).permutation(split.pool)[: min(size, LINEAR_RECORDS)]
    if dataset.x.dtype.kind != "f" or not len(split.test) or len(np.unique(dataset.y[drawn])) < 2:
        return {}
    from sklearn.exceptions import ConvergenceWarning  # slow to import; flags of measured runs need none of it
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=LINEAR_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(dataset.x[drawn].reshape(len(drawn), -1), dataset.y[drawn])
    answers = np.zeros((1, len(split.test), len(dataset.classes)))
    answers[0][:, model.classes_] = model.predict_proba(dataset.x[split.test].reshape(len(split.test), -1))
    told = measures(answers, dataset.y[split.test], "probabilities")
    means = {metric: float(values.mean()) for metric, values in told.items() if metric != CALIBRATION}
    return {linear(metric): mean for metric, mean in means.items() if not np.isnan(mean)}


@lru_cache(maxsize=2)
def duplicated_share(dataset: Dataset) -> float:
    """Share of the audited records with an exact copy, input and label, among the pool's other records.

    A model that was trained on the copy was trained on the record as well, whatever its membership says: attacks are
    told that they are wrong where they are right. A person's copies of a record share its fate and do not count.
    """
    split = dataset.split
    owner = split.pool if split.persons is None else split.persons
    _, content = np.unique(
        [content_digest(dataset.x[record], dataset.y[record]) for record in split.pool.tolist()], return_inverse=True
    )
    owned = np.unique(np.column_stack([content, owner]), axis=0)[:, 0]
    owners = np.bincount(owned)[content]
    return float((owners[split.is_audited] > 1).mean())


def content_digest(row: np.ndarray, label: int | np.integer) -> bytes:
    """16 bytes that records share whose input and label are the same."""
    content = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16)
    content.update(int(label).to_bytes(8, "little"))
    return content.digest()


def spread_rows(seen: View) -> Iterator[Row]:
    """The spread of every model's log-odds beside the median model's; one row without a value where none is defined."""
    if seen.outputs == "label" or seen.models == 1:
        return
    if (measured := centers_and_spreads(seen.log_odds)) is None:
        yield Row(metric=SPREAD, value=None)
        return
    _, spread = measured
    for model, value in enumerate(spread[:, 0] / np.median(spread[:, 0])):
        yield Row(metric=SPREAD, model=model, value=float(value))
