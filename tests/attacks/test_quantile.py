from dataclasses import replace

import numpy as np
import pytest

from palisade.attacks import LossThreshold, Quantile, View
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_RECORDS, POPULATION_RECORDS = 400, 600


def simulated(seed: int, effect: float, models: int = 4) -> tuple[View, np.ndarray]:
    """φ ~ N(μ(x, y), σ(x)²), which members exceed; and the score of whoever knows μ and σ."""
    rng = np.random.default_rng(seed)
    x, y = (
        rng.standard_normal((FLEET_RECORDS + POPULATION_RECORDS, 2)),
        rng.integers(2, size=FLEET_RECORDS + POPULATION_RECORDS),
    )
    mean, deviation = 3 * np.sin(x[:, 0]) + 2 * y, np.exp(x[:, 1] / 2)
    member = rng.random((models, FLEET_RECORDS)) < 0.5
    z = rng.standard_normal((models, FLEET_RECORDS + POPULATION_RECORDS))
    z[:, :FLEET_RECORDS] += effect * member
    phi = mean + deviation * z
    logits = np.stack([np.where(y == 0, phi, 0), np.where(y == 1, phi, 0)], axis=-1)
    view = View(
        logits=logits[:, :FLEET_RECORDS],
        labels=y[:FLEET_RECORDS],
        membership=member,
        features=x[:FLEET_RECORDS],
        population_logits=logits[:, FLEET_RECORDS:],
        population_labels=y[FLEET_RECORDS:],
        population_features=x[FLEET_RECORDS:],
    )
    return view, z[:, :FLEET_RECORDS]


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


def test_learns_mean_and_spread_of_records_like_it() -> None:
    view, ideal = simulated(0, 1.5)
    scores = Quantile().score(view)
    assert np.corrcoef(scores.ravel(), ideal.ravel())[0, 1] > 0.9
    assert mean_auc(LossThreshold().score(view), view) + 0.07 < mean_auc(scores, view) <= mean_auc(ideal, view) + 0.02


def test_finds_nothing_where_nothing_is() -> None:
    view, _ = simulated(1, 0.0, models=8)
    assert mean_auc(Quantile().score(view), view) == pytest.approx(0.5, abs=0.03)


def test_surer_answers_score_higher_and_membership_plays_no_part() -> None:
    view, _ = simulated(0, 1.0)
    assert view.logits is not None
    before = Quantile().score(view)
    surer = view.logits + 0.5 * np.equal.outer(view.labels, [0, 1])
    assert (Quantile().score(replace(view, logits=surer)) > before).all()
    np.testing.assert_array_equal(Quantile().score(replace(view, membership=~view.membership)), before)


def test_models_are_attacked_one_by_one() -> None:
    view, _ = simulated(0, 1.0)
    assert view.logits is not None and view.population_logits is not None
    one = slice(2, 3)
    alone = replace(
        view,
        logits=view.logits[one],
        membership=view.membership[one],
        population_logits=view.population_logits[one],
    )
    np.testing.assert_allclose(Quantile().score(alone)[0], Quantile().score(view)[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1,), (4, 5, 5)])
def test_records_of_any_shape(shape: tuple[int, ...]) -> None:
    view, _ = simulated(0, 1.0)
    rng = np.random.default_rng(0)
    x, known = rng.random((FLEET_RECORDS, *shape)), rng.random((POPULATION_RECORDS, *shape))
    assert np.isfinite(Quantile().score(replace(view, features=x, population_features=known))).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # explained variance ratios, which are not used
def test_equal_records_and_equal_answers_stay_finite() -> None:
    view, _ = simulated(0, 1.0)
    assert view.population_logits is not None
    same = replace(
        view,
        features=np.ones((FLEET_RECORDS, 3)),
        population_features=np.ones((POPULATION_RECORDS, 3)),
        population_logits=np.zeros_like(view.population_logits),
    )
    assert np.isfinite(Quantile().score(same)).all()


def test_needs_enough_population_records() -> None:
    view, _ = simulated(0, 1.0)
    assert view.population_logits is not None and view.population_labels is not None
    assert "set split.population=0.1" in str(
        Quantile().missing(replace(view, population_logits=None, population_labels=None, population_features=None))
    )
    bare = replace(view, population_features=None)
    assert Quantile().missing(bare) == "needs the population records themselves; pass population_features"
    few = replace(
        view,
        population_logits=view.population_logits[:, :5],
        population_labels=view.population_labels[:5],
        population_features=np.ones((5, 2)),
    )
    with pytest.raises(
        ValueError, match=r"attack=quantile: expected .* needs population records to regress on; population=5 is belo"
    ):
        Quantile().score(few)
