import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data import scattering
from palisade.data.bundled import Digits
from palisade.data.dataset import prepare
from palisade.data.preprocessing import from_json
from palisade.data.records import Records
from palisade.data.scattering import Scattering
from palisade.data.split import Roles

SMALL_SCATTERING = Scattering(image=(1, 12, 8))


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def wavelet(height, width, scale, angle):
    """A Morlet wavelet as it is defined, in space, repeated with the period of the padded image."""
    sigma, frequency = 0.8 * 2**scale, 3 * np.pi / 4 / 2**scale
    wave, envelope = np.zeros((height, width), complex), np.zeros((height, width))
    for down in range(-height, 2 * height):
        for across in range(-width, 2 * width):
            along = across * np.cos(angle) + down * np.sin(angle)
            beside = -across * np.sin(angle) + down * np.cos(angle)
            bell = np.exp(-(along**2 + beside**2 / 4) / (2 * sigma**2)) / (4 * np.pi * sigma**2)
            wave[down % height, across % width] += bell * np.exp(1j * frequency * along)
            envelope[down % height, across % width] += bell
    return wave - wave.sum() / envelope.sum() * envelope


def convolved(image, kernel):
    total = np.zeros(image.shape, complex)
    for down, across in np.ndindex(*kernel.shape):
        total += kernel[down, across] * np.roll(image, (down, across), axis=(0, 1))
    return total


def averaged(image, step, height, width):
    """A Gaussian mean around every 4th pixel of the image within its padding."""
    means = np.zeros((height // 4, width // 4))
    for row, column in np.ndindex(*means.shape):
        weights = np.zeros(image.shape)
        for y, x in np.ndindex(*image.shape):
            down, across = abs(4 + 4 * row - step * y), abs(4 + 4 * column - step * x)
            down, across = min(down, height + 8 - down), min(across, width + 8 - across)
            weights[y, x] = np.exp(-(down**2 + across**2) / (2 * 1.6**2))
        means[row, column] = (weights * image).sum() / weights.sum()
    return means


def test_a_naive_convolution_agrees():
    _, height, width = SMALL_SCATTERING.image
    image = images(1, height, width)[0] / 255
    padded = np.pad(image, 4, mode="reflect")
    fine, coarse = ([wavelet(*padded.shape, scale, k * np.pi / 8) for k in range(8)] for scale in (0, 1))
    first = [np.abs(convolved(padded, kernel)) for kernel in fine]
    orders = [averaged(padded, 1, height, width), *(averaged(modulus, 1, height, width) for modulus in first)]
    for inner in (padded, *first):
        for kernel in coarse:
            orders.append(averaged(np.abs(convolved(inner, kernel))[::2, ::2], 2, height, width))
    coefficients = SMALL_SCATTERING._coefficients(image[None].astype(np.float32))[0]
    np.testing.assert_allclose(coefficients, orders, atol=2e-6)
    groups = torch.nn.functional.group_norm(torch.tensor(np.array(orders))[None], 27)
    np.testing.assert_allclose(SMALL_SCATTERING(image[None, None] * 255)[0], groups[0], atol=2e-3)


@pytest.mark.parametrize(("image", "shape"), [((1, 28, 28), (81, 7, 7)), ((3, 32, 32), (243, 8, 8))])
def test_shapes(image, shape):
    transform = Scattering(image=image)
    features = transform(images(2, *image))
    assert features.shape == (2, *shape) and features.dtype == np.float32 and transform.shape == shape
    assert np.array_equal(transform(images(2, *image).reshape(2, -1)), features)


def test_no_frequency_is_lost_or_much_amplified():
    """The Littlewood–Paley sum of averaging and wavelets, so that features keep an image's energy (Mallat 2012)."""
    transform = Scattering(image=(1, 28, 28))
    frequency = 2 * np.pi * np.fft.fftfreq(36)
    low = np.exp(-(1.6**2) * (frequency[:, None] ** 2 + frequency**2) / 2)
    waves = sum((wavelets**2).sum(axis=0) for wavelets in transform._wavelets)
    mirrored = np.roll(waves[::-1, ::-1], (1, 1), axis=(0, 1))
    total = low**2 + (waves + mirrored) / 2
    circle = frequency[:, None] ** 2 + frequency**2 < np.pi**2
    assert total[circle].min() > 0.3 and total.max() < 1.5


@given(seed=st.integers(0, 10_000), count=st.integers(1, 70))
@settings(deadline=None, max_examples=25)
def test_a_record_has_the_same_features_in_any_company(seed, count):
    rows = images(count, *SMALL_SCATTERING.image, seed=seed)
    features = SMALL_SCATTERING(rows)
    assert np.array_equal(features, SMALL_SCATTERING(rows))
    np.testing.assert_allclose(features[count // 2], SMALL_SCATTERING(rows[count // 2][None])[0], atol=1e-4)
    groups = features.reshape(count, 27, -1)
    np.testing.assert_allclose(groups.mean(axis=-1), 0, atol=1e-4)
    assert groups.var(axis=-1).max() <= 1 + 1e-4


def test_a_small_shift_changes_features_less_than_pixels():
    grid = np.add.outer(np.square(np.arange(28) - 12.0), np.square(np.arange(28) - 15.0))
    ring = (255 * np.exp(-((np.sqrt(grid) - 7) ** 2) / 2)).astype(np.uint8)[None, None]
    shifted = np.roll(ring, 1, axis=-1)

    def change(a, b):
        return np.linalg.norm(np.float64(a) - b) / np.linalg.norm(np.float64(a))

    coefficients = Scattering(image=(1, 28, 28))._coefficients
    features = change(coefficients(ring[0].astype(np.float32)), coefficients(shifted[0].astype(np.float32)))
    assert features < 0.6 * change(ring, shifted)


def test_a_blank_image_has_finite_features():
    assert np.isfinite(SMALL_SCATTERING(np.full((1, 1, 12, 8), 255))).all()


def test_it_travels_as_json():
    again = from_json(json.loads(json.dumps(SMALL_SCATTERING.to_json())))
    rows = images(3, *SMALL_SCATTERING.image)
    assert (
        again == SMALL_SCATTERING
        and np.array_equal(again(rows), SMALL_SCATTERING(rows))
        and SMALL_SCATTERING.not_covered is None
    )


@pytest.mark.parametrize("image", [(28, 28), (1, 30, 28), (1, 28, 4)])
def test_wrong_shapes(image):
    with pytest.raises(ValueError, match=r"^scattering\.image=.*: expected \(channels, height, width\) "):
        Scattering(image=image)
    with pytest.raises(ValueError, match=r"^rows have shape \(2, 5\) but the network expects \(records, 1, 12, 8\)"):
        SMALL_SCATTERING(np.zeros((2, 5)))


@dataclass(frozen=True)
class Scattered:
    """The digits as images of 8 × 8 pixels with scattering features."""

    published: str | None

    def load(self) -> Records:
        digits = Digits().load()
        return replace(
            digits,
            rows=(digits.rows[:200] * 15).astype(np.uint8),
            labels=digits.labels[:200],
            preprocessing=Scattering(image=(1, 8, 8)),
            published=self.published,
        )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "palisade"


def test_features_of_public_records_are_computed_once(cache, monkeypatch, capsys):
    first = prepare(Scattered("sha256:0"), Roles(), seed=0)
    assert capsys.readouterr().err == "scattering features of 200 images, once: minutes\n"
    (cache_file,) = cache.iterdir()
    monkeypatch.setattr(Scattering, "_fill", None)
    again = prepare(Scattered("sha256:0"), Roles(), seed=0)
    monkeypatch.undo()
    assert np.array_equal(again.x, first.x) and isinstance(again.x.base, np.memmap)
    assert np.array_equal(first.x, first.preprocessing(Scattered(None).load().rows))
    assert cache_file.name.startswith("scattering-") and cache_file.suffix == ".npy" and capsys.readouterr().err == ""


def test_features_of_private_records_are_not_cached(cache):
    assert prepare(Scattered(None), Roles(), seed=0).x.shape == (200, 81, 2, 2)
    assert not cache.exists()


def test_what_is_interrupted_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(scattering, "normalized", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(Scattered("sha256:0"), Roles(), seed=0)
    assert list(cache.iterdir()) == []
