import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from palisade.attacks import LossThreshold, Population, View


def view_of(phi: np.ndarray, population: np.ndarray) -> View:
    """Log-odds φ of the records and of the population, exactly."""
    logits, others = (np.stack([values, np.zeros_like(values)], axis=-1) for values in (phi, population))
    labels, unseen = np.zeros(phi.shape[1], dtype=int), np.zeros(population.shape[1], dtype=int)
    membership = np.zeros(phi.shape, dtype=bool)
    return View(logits=logits, labels=labels, membership=membership, population_logits=others, population_labels=unseen)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_share_is_the_double_loop_and_ranks_as_the_loss(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    records, n = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    scale, decimals = data.draw(st.sampled_from([(1, 0), (1, 9), (300, 1)])), data.draw(st.integers(0, 3))
    phi, population = (
        (scale[0] * rng.standard_normal((2, size))).round(min(scale[1], decimals)) for size in (records, n)
    )
    view = view_of(phi, population)
    scores, loss = Population().score(view), view.loss[:, :, 0]
    assert view.population is not None
    for k, x in np.ndindex(2, records):
        larger = sum(bool(z > loss[k, x]) for z in view.population.loss[k, :, 0])
        assert larger < scores[k, x] * (n + 1) < larger + 1
    for score, by_loss in zip(scores, LossThreshold().score(view), strict=True):
        ranks = [np.unique(values, return_inverse=True)[1].tolist() for values in (score, by_loss)]
        assert ranks[0] == ranks[1]


def test_losses_one_rounding_apart_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    loss = np.nextafter(np.full(1000, 1e-9), 1) + np.arange(1000) * np.spacing(1e-9)
    view = view_of(np.zeros((1, 1000)), rng.standard_normal((1, 5000)))
    view.__dict__["loss"] = rng.permutation(loss)[None, :, None]
    scores = Population().score(view)[0]
    np.testing.assert_array_equal(scores.argsort(), view.loss[0, :, 0].argsort()[::-1])
    assert len(set(scores)) == 1000
    assert scores.max() < 1


FALSE_POSITIVE_RATES = (0.01, 0.05, 0.3)


def false_positive_rates(population: np.ndarray, nonmembers: np.ndarray) -> list[float]:
    scores = Population().score(view_of(nonmembers[None], population[None]))[0]
    return [float(np.mean(1 - scores <= rate)) for rate in FALSE_POSITIVE_RATES]


@pytest.mark.parametrize("decimals", [9, 1])
def test_one_minus_score_is_a_p_value(decimals: int) -> None:
    rng = np.random.default_rng(0)
    population, nonmembers = rng.standard_normal((2, 20_000)).round(decimals)
    for rate, false_positive_rate in zip(
        FALSE_POSITIVE_RATES, false_positive_rates(population, nonmembers), strict=True
    ):
        assert false_positive_rate < binom.ppf(0.9999, 20_000, rate) / 20_000 + 4 * np.sqrt(rate / 20_000), (
            "both samples vary"
        )
        assert decimals == 1 or false_positive_rate > binom.ppf(0.0001, 20_000, rate) / 20_000 - 4 * np.sqrt(
            rate / 20_000
        )


def test_members_among_the_population_are_noticed() -> None:
    rng = np.random.default_rng(0)
    population, nonmembers = rng.standard_normal((2, 20_000))
    population[:10_000] += 2  # trained on
    for rate, false_positive_rate in zip(
        FALSE_POSITIVE_RATES, false_positive_rates(population, nonmembers), strict=True
    ):
        assert false_positive_rate < binom.ppf(0.0001, 20_000, rate) / 20_000 - 4 * np.sqrt(rate / 20_000)


def test_without_a_population_it_is_skipped() -> None:
    view = view_of(np.zeros((2, 3)), np.zeros((2, 3)))
    bare = View(logits=view.logits, labels=view.labels, membership=view.membership)
    with pytest.raises(
        ValueError, match=r"attack=population: expected .* needs population records; .* set split\.population=0\.1"
    ):
        Population().score(bare)
    assert Population().missing(view) is None, "no shadows are needed"
