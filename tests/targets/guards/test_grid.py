"""The grid of queries: what last bits change is one input, and what is on the grid stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palisade.data.arrays import Arrays
from palisade.data.bundled import BreastCancer, Digits
from palisade.data.dataset import Dataset, prepare
from palisade.data.images import CIFAR10, MNIST, FashionMNIST, Images
from palisade.data.preprocessing import Scale
from palisade.data.split import Roles
from palisade.data.table import Table
from palisade.data.tokens import Tokens
from palisade.targets.guards import GUARDS_BY_NAME, grid
from palisade.targets.guards.registry import make_guard

SPLIT_SIZES = Roles(pool=0.5, reference=0.2)
SEEDED_RNG = np.random.default_rng(0)
VALUE_SPREADS = np.array([1e-4, 1.0, 1e5])


def of_scale(scale: Scale, x: np.ndarray, published: str | None = None) -> Dataset:
    """A data set of these rows."""
    return replace(prepare(Digits(), SPLIT_SIZES, 0), x=scale(x), preprocessing=scale, published=published)


def unscaled(values: np.ndarray | None = None) -> Dataset:
    rows = SEEDED_RNG.normal(size=(1797, 3)) * VALUE_SPREADS if values is None else values
    return of_scale(Scale(shape=rows.shape[1:]), rows)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_pixels_stay_what_they_are(kind: type[Images]) -> None:
    channels = len(kind.mean)
    scale = kind()._preprocessing((channels, 16, 16))
    assert isinstance(scale, Scale)
    dataset = of_scale(scale, np.resize(np.arange(256, dtype=np.uint8), (1797, channels, 16, 16)))
    np.testing.assert_array_equal(grid.snapped(dataset.x, grid.fit(dataset, dataset.split)), dataset.x)


@pytest.mark.parametrize(
    "values",
    [
        SEEDED_RNG.integers(2, size=(1797, 5)),
        SEEDED_RNG.integers(256, size=(1797, 5)),
        SEEDED_RNG.integers(-200, 200, size=(1797, 5)),
    ],
    ids=["zeros and ones", "bytes", "whole numbers"],
)
def test_whole_numbers_stay_what_they_are(values: np.ndarray) -> None:
    dataset = unscaled(values)
    np.testing.assert_array_equal(grid.snapped(dataset.x, grid.fit(dataset, dataset.split)), dataset.x)


def test_digits_stay_what_they_are_and_words_need_no_grid() -> None:
    dataset = prepare(Digits(), SPLIT_SIZES, 0)
    np.testing.assert_array_equal(grid.snapped(dataset.x, grid.fit(dataset, dataset.split)), dataset.x)
    words = replace(dataset, x=np.ones((1797, 4), dtype=np.int64), preprocessing=Tokens(length=4))
    assert grid.fit(words, words.split) == {}


def test_steps_follow_how_much_values_vary() -> None:
    dataset = unscaled()
    step = grid.fit(dataset, dataset.split)[grid.STEP_KEY].numpy()
    assert np.all(np.log2(step) % 1 == 0)
    assert np.all((step > VALUE_SPREADS / 150) & (step < VALUE_SPREADS / 50))
    snapped = grid.snapped(dataset.x, grid.fit(dataset, dataset.split))
    assert np.all(np.abs(snapped - dataset.x) <= 0.62 * step)
    assert len(np.unique(snapped, axis=0)) > 1700, "records are told apart"


def test_a_value_that_does_not_vary_has_a_step_too() -> None:
    dataset = unscaled(np.zeros((1797, 3)))
    assert np.all(grid.fit(dataset, dataset.split)[grid.STEP_KEY].numpy() == 1 / 64)


def test_reference_records_come_before_the_pool() -> None:
    dataset = unscaled()
    x = dataset.x.copy()
    x[dataset.split.reference] *= 100
    wide = replace(dataset, x=x)
    alone = replace(dataset.split, reference=np.array([], dtype=np.int64))
    by_reference, by_pool = (grid.fit(wide, split)[grid.STEP_KEY].numpy() for split in (dataset.split, alone))
    assert np.all((by_reference / by_pool > 30) & (by_reference / by_pool < 300))


@pytest.mark.parametrize("what", ["breast_cancer", "table"])
def test_last_bits_of_scaled_numbers_change_nothing(what: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": SEEDED_RNG.normal(40, 9, 300), "b": SEEDED_RNG.choice(["p", "q"], 300), "y": np.arange(300) % 2}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    source = BreastCancer() if what == "breast_cancer" else Table(path=str(tmp_path / "t.csv"), label="y")
    dataset = prepare(source, SPLIT_SIZES, 0)
    state = grid.fit(dataset, dataset.split)
    snapped = grid.snapped(dataset.x, state)
    changed = np.nextafter(dataset.x, np.float32(9))
    moved = (grid.snapped(changed, state) != snapped).mean()
    assert moved < 1e-4, "though one value in 800 lies in the middle between two points of the grid"
    np.testing.assert_allclose(grid.snapped(snapped, state), snapped)
    if what == "table":
        np.testing.assert_array_equal(snapped[:, 1:], dataset.x[:, 1:])


def test_a_grid_of_private_records_is_named(compose, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=SEEDED_RNG.normal(size=(60, 3)), y=np.arange(60) % 3)
    private = prepare(Arrays(path=str(tmp_path / "mine.npz")), Roles(), seed=0)
    guards = {name: make_guard(compose(f"guard={name}")) for name in GUARDS_BY_NAME}
    named = {name: guard.not_covered(private) for name, guard in guards.items()}
    assert {name for name, reason in named.items() if reason} == {"aggregate", "memguard", "hamp_output"}
    assert all("standard deviations of the private records" in reason for reason in named.values() if reason)
    for dataset in (replace(private, published="sha256:0a1b"), prepare(Digits(), SPLIT_SIZES, 0)):
        assert not any(guard.not_covered(dataset) for guard in guards.values())
    scaled = replace(private, preprocessing=Scale(shape=(3,), factor=(0.5,)))
    assert grid.not_covered(scaled) is None, "constants are no statistics"
