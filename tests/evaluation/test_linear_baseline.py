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
from palisade.evaluation.measuring.baselines import linear, linear_utilities
from palisade.evaluation.result import TRAIN_ACCURACY, Result, Row
from palisade.evaluation.utility import UTILITY_MEASURES

NO_RECORDS = np.array([], dtype=np.int64)


def dataset(*, labels: int = 3, kind: type = np.float32, test: bool = True, shape: tuple[int, ...] = (4, 2)) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, *shape))
    y = (x.reshape(600, -1) @ rng.normal(size=(8, labels))).argmax(axis=1)
    split = Split(
        pool=np.arange(400), validation=NO_RECORDS, reference=NO_RECORDS, population=NO_RECORDS,
        test=np.arange(400, 600) if test else NO_RECORDS,
    )  # fmt: skip
    nothing: Any = None
    return Dataset(
        name="made", x=x.astype(kind), y=y, classes=("a", "b", "c"), split=split, preprocessing=nothing,
        fingerprint="", published=None,
    )  # fmt: skip


def accuracy(data: Dataset, size: int, seed: int) -> float:
    return linear_utilities(data, size, seed)[linear("test_accuracy")]


def test_as_scikit_learn_finds_on_as_many_records_of_the_pool() -> None:
    data = dataset()
    drawn = np.random.default_rng(7).permutation(data.split.pool)[:200]
    x = data.x.reshape(600, -1)
    model = LogisticRegression(max_iter=20).fit(x[drawn], data.y[drawn])
    expected = model.score(x[data.split.test], data.y[data.split.test])
    assert expected > 0.85 and accuracy(data, 200, 7) == pytest.approx(expected)


def test_few_records_teach_less() -> None:
    data = dataset()
    few, all_of_them = accuracy(data, 6, 0), accuracy(data, 400, 0)
    assert few < all_of_them - 0.1


@pytest.mark.parametrize("own", [{"kind": np.int64}, {"test": False}, {"labels": 1}])
def test_words_no_test_records_and_a_single_class_have_none(own: dict[str, Any]) -> None:
    assert linear_utilities(dataset(**own), 200, 0) == {}


@pytest.mark.parametrize(("own", "simple", "flagged"), [(0.80, 0.81, True), (0.80, 0.805, False), (0.80, 0.75, False)])
def test_only_accuracy_below_it_beyond_the_interval_is_flagged(
    make_result: Callable[..., Result], own: float, simple: float, flagged: bool
) -> None:
    result = make_result(accuracy=own)  # ± 0.008
    result = replace(result, rows=[*result.rows, Row(metric=linear("test_accuracy"), value=simple)])
    raised = list(below_linear(result, Comparison([result])))
    assert [flag.name for flag in raised] == (["below a linear model"] if flagged else [])
    assert not flagged or ("reaches 81.0 % test accuracy" in raised[0].sentence and "80.0 %" in raised[0].sentence)


def test_results_without_the_number_are_not_flagged(make_result: Callable[..., Result]) -> None:
    result = make_result(accuracy=0.1)
    assert not list(below_linear(result, Comparison([result])))


def test_every_measure_is_scikit_learns() -> None:
    from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

    data = dataset()
    drawn = np.random.default_rng(0).permutation(data.split.pool)[:200]
    x, test = data.x.reshape(600, -1), data.split.test
    answers = LogisticRegression(max_iter=20).fit(x[drawn], data.y[drawn]).predict_proba(x[test])
    utilities = linear_utilities(data, 200, 0)
    assert utilities[linear("test_balanced_accuracy")] == pytest.approx(
        balanced_accuracy_score(data.y[test], answers.argmax(axis=1))
    )
    assert utilities[linear("test_log_loss")] == pytest.approx(log_loss(data.y[test], answers), rel=1e-5)
    assert utilities[linear("test_roc_auc")] == pytest.approx(roc_auc_score(data.y[test], answers, multi_class="ovr"))


@pytest.mark.parametrize(
    ("name", "value", "simple", "flagged"),
    [
        ("balanced_accuracy", 0.60, 0.70, True),
        ("balanced_accuracy", 0.60, 0.50, False),
        ("log_loss", 0.60, 0.50, True),
        ("log_loss", 0.60, 0.70, False),
    ],
)
def test_the_measure_that_was_chosen_is_compared(
    make_result: Callable[..., Result], name: str, value: float, simple: float, flagged: bool
) -> None:
    result = replace(make_result(accuracy=0.9), utility=UTILITY_MEASURES[name])
    rows = [
        Row(metric=f"test_{name}", value=value, low=value - 0.01, high=value + 0.01),
        Row(metric=linear(f"test_{name}"), value=simple),
        Row(metric=linear("test_accuracy"), value=0.5 if flagged else 0.99),  # accuracy would say the opposite
    ]
    result = replace(result, rows=[*result.rows, *rows])
    raised = list(below_linear(result, Comparison([result])))
    assert bool(raised) == flagged and all(result.utility.words in flag.sentence for flag in raised)


@pytest.mark.parametrize(
    ("train", "said"),
    [(1.0, "by heart. Train shorter"), (0.79, "train longer"), (None, "Train with other settings")],
)
def test_an_overfitted_model_is_not_advised_to_train_longer(
    make_result: Callable[..., Result], train: float | None, said: str
) -> None:
    result = make_result(accuracy=0.78)
    rows = [row for row in result.rows if row.metric != TRAIN_ACCURACY]
    rows += [] if train is None else [Row(metric=TRAIN_ACCURACY, value=train)]
    result = replace(result, rows=[*rows, Row(metric=linear("test_accuracy"), value=0.83)])
    (flag,) = below_linear(result, Comparison([result]))
    assert said in flag.sentence and ("train longer" in flag.sentence) == (train == 0.79)
