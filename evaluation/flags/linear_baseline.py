"""How accurate a linear model is: a defense that does worse protects a model that is hardly worth having."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from palisade.data.dataset import Dataset
from palisade.evaluation.findings import Findings
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.utility import ACCURACY

LINEAR = "linear_test_accuracy"
"""The name of the metric."""
RECORDS, STEPS = 5_000, 20
"""Enough for a level to compare with, in about two seconds at most."""


@lru_cache(maxsize=2)
def linear_accuracy(dataset: Dataset, size: int, seed: int) -> float | None:
    """Test accuracy of multinomial logistic regression on the inputs of the networks, without any protection.

    Args:
        dataset: whose inputs are numbers; None where they are words.
        size: N, the public size of a model's training set; as many records of the pool are drawn, at most 5,000.
        seed: public; draws them.
    """
    split = dataset.split
    drawn = np.random.default_rng(seed).permutation(split.pool)[: min(size, RECORDS)]
    if dataset.x.dtype.kind != "f" or not len(split.test) or len(np.unique(dataset.y[drawn])) < 2:
        return None
    from sklearn.exceptions import ConvergenceWarning  # slow to import; flags of measured runs need none of it
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(dataset.x[drawn].reshape(len(drawn), -1), dataset.y[drawn])
    return float(model.score(dataset.x[split.test].reshape(len(split.test), -1), dataset.y[split.test]))


def below_linear(found: Findings) -> Iterator[Flag]:
    """The run's accuracy is below that of a linear model beyond its interval."""
    own, row = found.get(ACCURACY.metric), found.find(LINEAR)
    if row is not None and own.high is not None and own.high < (row.value or 0.0):
        yield Flag(
            "below a linear model",
            f"A linear model that nothing protects reaches {100 * (row.value or 0.0):.1f} % test accuracy within"
            f" seconds, this run {100 * (own.value or 0.0):.1f} %. Little leaks from what has learned little: train"
            " longer, with other settings, or take the simpler model.",
        )
