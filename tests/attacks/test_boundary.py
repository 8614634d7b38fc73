from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from palisade.attacks import Boundary, Correctness, View
from palisade.attacks.boundary import _leap, hop_skip_jump
from palisade.evaluation.statistics.metrics import roc_auc

Query = Callable[[int, np.ndarray], np.ndarray]


def view_of(query: Query, x: np.ndarray, y: np.ndarray, member: np.ndarray) -> View:
    predictions = np.stack([query(model, x) for model in range(len(member))])
    return View(predictions=predictions, labels=y, membership=member, features=x, query=query)


def linear(features: int, records: int = 60) -> tuple[View, np.ndarray]:
    """A linear classifier, and the exact distance of each record from its boundary."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal(features), rng.standard_normal((records, features))
    margin = x @ w + 0.3
    view = view_of(
        lambda _, points: (points @ w + 0.3 > 0).astype(int), x, (margin > 0).astype(int), np.ones((1, records), bool)
    )
    return view, np.abs(margin) / np.linalg.norm(w)


@pytest.mark.parametrize("features", [2, 10, 20])
def test_finds_the_exact_distance_of_a_linear_classifier(features: int) -> None:
    view, exact = linear(features)
    distances = Boundary(budget=500).score(view)[0]
    assert (distances >= exact * (1 - 1e-6)).all(), "a misclassified input cannot be nearer"
    assert np.median(distances / exact) < 1.1
    np.testing.assert_array_less(distances / exact, 1.25)


def test_finds_a_curved_boundary() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 8))
    radius = np.linalg.norm(x, axis=1)
    inside = (radius < 2.5).astype(int)
    view = view_of(
        lambda _, points: (np.linalg.norm(points, axis=1) < 2.5).astype(int), x, inside, np.ones((1, 80), bool)
    )
    ratio = Boundary(budget=1000).score(view)[0] / np.abs(radius - 2.5)
    assert ratio.min() >= 1 - 1e-6 and np.median(ratio) < 1.1


def test_a_larger_budget_comes_closer() -> None:
    view, exact = linear(50)
    by_budget = [Boundary(budget=budget).score(view)[0] for budget in (60, 200, 500, 2000)]
    for smaller, larger in pairwise(by_budget):
        assert (larger <= smaller + 1e-9).all() and np.median(larger) < np.median(smaller)
    assert np.median(by_budget[-1] / exact) < 1.1


@pytest.mark.parametrize("budget", [60, 137, 500])
def test_the_budget_holds_for_each_record(budget: int) -> None:
    asked = np.zeros(7, dtype=int)

    def wrong(points: np.ndarray) -> np.ndarray:
        asked[:] += points.shape[1]
        return points[:, :, 0] > 0

    rng = np.random.default_rng(0)
    x, start = -rng.random((7, 3)) - 0.1, rng.random((7, 3)) + 0.1
    hop_skip_jump(wrong, x, start, budget - 1, rng)
    assert (asked <= budget - 1).all() and asked[0] > budget / 2


def test_queries_stay_within_what_is_declared() -> None:
    view, _ = linear(5, 20)
    for budget in range(60, 160):
        attack = Boundary(budget=budget)
        assert attack.threat.queries == budget
        assert 59 <= attack.run(view).queries <= budget


def test_wrong_already_is_distance_zero_and_never_wrong_has_none() -> None:
    view, _ = linear(3)
    wrong = np.arange(60) % 3 == 0
    labels = np.where(wrong, 1 - view.labels, view.labels)
    scores = Boundary(budget=60).score(replace(view, labels=labels))[0]
    assert (scores[wrong] == 0).all() and (scores[~wrong] > 0).all()
    constant = replace(view, query=lambda _, points: np.zeros(len(points), dtype=int))
    scores = Boundary(budget=60).score(constant)[0]
    np.testing.assert_array_equal(np.isnan(scores), view.labels == 0)
    assert (scores[view.labels == 1] == 0).all()


def test_as_many_records_as_asked_for_are_audited() -> None:
    view, _ = linear(3)
    some, every = (Boundary(budget=60, records=records).score(view)[0] for records in (20, None))
    assert np.isfinite(some).sum() == 20 and np.isfinite(every).all()
    other = Boundary(budget=60, records=20, seed=1).score(view)[0]
    assert (np.isnan(other) != np.isnan(some)).any(), "the seed draws them"


def test_a_step_that_leads_back_is_not_taken() -> None:
    edge, normal = np.ones((2, 3)), np.eye(3)[:2]
    stays = _leap(lambda points: np.zeros(points.shape[:2], dtype=bool), edge, normal, np.ones((2, 1)))
    np.testing.assert_array_equal(stays, edge)
    near = _leap(lambda points: points.sum(axis=-1) < 3.3, edge, normal, np.ones((2, 1)))
    np.testing.assert_allclose(near, edge + 0.25 * normal)


def neighbors(seed: int, trained: bool) -> View:
    """Nearest-neighbor classifiers of noisy labels, of members or of other records that look the same."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((120, 4)), rng.integers(2, size=120)
    member = rng.random((6, 120)) < 0.5
    learnt, answers = (x, y) if trained else (rng.standard_normal((120, 4)), rng.integers(2, size=120))
    models = [KNeighborsClassifier(1).fit(learnt[own], answers[own]) for own in member]
    return view_of(lambda model, points: models[model].predict(points), x, y, member)


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


def test_members_lie_far_from_the_boundary() -> None:
    view = neighbors(0, trained=True)
    assert mean_auc(Boundary(budget=150).score(view), view) > mean_auc(Correctness().score(view), view) + 0.02


def test_steps_that_lead_away_are_not_taken() -> None:
    view = neighbors(0, trained=True)
    by_budget = [Boundary(budget=budget, records=40).score(view) for budget in (60, 120, 200)]
    for smaller, larger in pairwise(by_budget):
        assert not (larger > smaller + 1e-9).any()


def test_finds_nothing_where_nothing_is() -> None:
    view = neighbors(1, trained=False)
    assert mean_auc(Boundary(budget=100).score(view), view) == pytest.approx(0.5, abs=0.06)


def test_images_are_asked_about_as_images() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((30, 2, 4, 4)).astype(np.float32)

    def query(model: int, points: np.ndarray) -> np.ndarray:
        assert points.shape[1:] == (2, 4, 4) and points.dtype == np.float32
        return (points.mean(axis=(1, 2, 3)) > 0.5).astype(int)

    view = view_of(query, x, query(0, x), np.ones((1, 30), bool))
    exact = np.abs(x.mean(axis=(1, 2, 3)) - 0.5) * np.sqrt(32)
    assert np.median(Boundary(budget=1000).score(view)[0] / exact) < 1.2


def test_errors() -> None:
    with pytest.raises(ValueError, match="budget=59"):
        Boundary(budget=59)
    with pytest.raises(ValueError, match="records=1"):
        Boundary(records=1)
    view, _ = linear(3)
    tokens = replace(view, features=np.ones((60, 3), dtype=int))
    reason = "needs records that can be moved continuously; these are whole numbers (tokens)"
    assert Boundary().missing(tokens) == reason
    assert Boundary().missing(replace(view, query=None)) is not None
