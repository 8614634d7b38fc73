"""The linear model is fitted to what a model may know, and only accuracy beyond its interval is flagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import below_linear
from palisade.evaluation.measuring.baselines import LINEAR, linear_accuracy
from palisade.evaluation.result import Result, Row

NOBODY = np.array([], dtype=np.int64)


def dataset(*, labels: int = 3, kind: type = np.float32, test: bool = True, shape: tuple[int, ...] = (4, 2)) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, *shape))
    y = (x.reshape(600, -1) @ rng.normal(size=(8, labels))).argmax(axis=1)
    split = Split(
        pool=np.arange(400), validation=NOBODY, reference=NOBODY, population=NOBODY,
        test=np.arange(400, 600) if test else NOBODY,
    )  # fmt: skip
    nothing: Any = None
    return Dataset(
        name="made", x=x.astype(kind), y=y, classes=("a", "b", "c"), split=split, preprocessing=nothing,
        fingerprint="", published=None,
    )  # fmt: skip


def test_as_scikit_learn_finds_on_as_many_records_of_the_pool() -> None:
    made = dataset()
    drawn = np.random.default_rng(7).permutation(made.split.pool)[:200]
    x = made.x.reshape(600, -1)
    model = LogisticRegression(max_iter=20).fit(x[drawn], made.y[drawn])
    expected = model.score(x[made.split.test], made.y[made.split.test])
    assert expected > 0.85 and linear_accuracy(made, 200, 7) == pytest.approx(expected)


def test_few_records_teach_less() -> None:
    made = dataset()
    few, all_of_them = linear_accuracy(made, 6, 0), linear_accuracy(made, 400, 0)
    assert few is not None and all_of_them is not None and few < all_of_them - 0.1


@pytest.mark.parametrize("own", [{"kind": np.int64}, {"test": False}, {"labels": 1}])
def test_words_no_test_records_and_a_single_class_have_none(own: dict[str, Any]) -> None:
    assert linear_accuracy(dataset(**own), 200, 0) is None


@pytest.mark.parametrize(
    ("accuracy", "linear", "flagged"), [(0.80, 0.81, True), (0.80, 0.805, False), (0.80, 0.75, False)]
)
def test_only_accuracy_below_it_beyond_the_interval_is_flagged(
    make_result: Callable[..., Result], accuracy: float, linear: float, flagged: bool
) -> None:
    result = make_result(accuracy=accuracy)  # ± 0.008
    result = replace(result, rows=[*result.rows, Row(metric=LINEAR, value=linear)])
    told = list(below_linear(result, Comparison([result])))
    assert [flag.name for flag in told] == (["below a linear model"] if flagged else [])
    assert not flagged or ("reaches 81.0 % test accuracy" in told[0].sentence and "80.0 %" in told[0].sentence)


def test_results_without_the_number_are_not_flagged(make_result: Callable[..., Result]) -> None:
    result = make_result(accuracy=0.1)
    assert not list(below_linear(result, Comparison([result])))
