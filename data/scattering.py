"""Scattering features of images: what a linear model needs to see shapes, without a parameter to be learnt."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Complex, Float, Float32, Shaped

from palisade.data.rows import shaped

WAVELET_ORIENTATIONS = 8
AVERAGING_STRIDE = 4  # 2^J for J = 2 scales
COEFFICIENTS_PER_CHANNEL = 1 + 2 * WAVELET_ORIENTATIONS + WAVELET_ORIENTATIONS**2  # of order 0, 1 and 2: 81
NORMALIZATION_GROUPS = 27
VARIANCE_EPSILON = 1e-5  # keeps the variance of a blank group above 0
WHITE_PIXEL = 255.0
CHUNK_IMAGES = 32  # images transformed together: their coefficients stay in a processor's cache


@dataclass(frozen=True, kw_only=True)
class Scattering:
    """Wavelet moduli of two scales and eight orientations, averaged over 4 × 4 pixels, then normalized per image.

    A linear model on these fixed features has few weights and needs few steps, so DP-SGD adds little noise to it: it
    beat the private deep networks of its day at ε = 3. Every image is transformed by itself with constants, so ε
    covers all of it.

    Bruna & Mallat, "Invariant Scattering Convolution Networks", 2013, section 2 (Morlet wavelets as in Kymatio);
    Tramèr & Boneh, "Differentially Private Learning Needs Better Features (or Much More Data)", 2021, section 2
    (J = 2, L = 8, group normalization in 27 groups of channels).

    Args:
        image: (channels, height, width) of an image with pixels 0 to 255; height and width are multiples of 4.

    Raises:
        ValueError: for another shape.
    """

    kind: ClassVar[str] = "scattering"
    statistics: ClassVar[str] = "constants"
    not_covered: ClassVar[None] = None
    image: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.image) != 3 or any(
            size % AVERAGING_STRIDE or size < 2 * AVERAGING_STRIDE for size in self.image[1:]
        ):
            raise ValueError(
                f"scattering.image={self.image}: expected (channels, height, width) with height and width multiples of "
                f"{AVERAGING_STRIDE} from {2 * AVERAGING_STRIDE} on; pad or crop the images"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one record's features: (81 · channels, height / 4, width / 4)."""
        channels, height, width = self.image
        return (COEFFICIENTS_PER_CHANNEL * channels, height // AVERAGING_STRIDE, width // AVERAGING_STRIDE)

    def __call__(self, rows: Shaped[np.ndarray, "records ..."]) -> Float32[np.ndarray, "records *shape"]:
        """The features of images (records, *image), or flattened ones.

        Raises:
            ValueError: for rows of another shape, with text, or with values that are not finite.
        """
        rows = shaped(rows, self.image)
        features = np.empty((len(rows), *self.shape), dtype=np.float32)
        self._fill(features, rows)
        return features

    def cached_features(
        self, rows: Shaped[np.ndarray, "records ..."], fingerprint: str
    ) -> Float32[np.ndarray, "records *shape"]:
        """The features of public images, computed once and memory-mapped from the user's cache ever after.

        Args:
            rows: images (records, *image).
            fingerprint: of these images and this transform.
        """
        import pooch

        path = Path(pooch.os_cache("palisade"), f"scattering-{fingerprint[:32]}.npy")
        if not path.exists():
            print(f"scattering features of {len(rows)} images, once: minutes", file=sys.stderr, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            try:
                shape = (len(rows), *self.shape)
                features = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
                self._fill(features, shaped(rows, self.image))
                features.flush()
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return np.asarray(np.load(path, mmap_mode="r"))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        return {"kind": self.kind, "image": list(self.image)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scattering:
        """The preprocessing that `to_json` described."""
        return cls(image=tuple(content["image"]))

    def _fill(self, features: Float32[np.ndarray, "records *shape"], rows: Shaped[np.ndarray, "records ..."]) -> None:
        for start in range(0, len(rows), CHUNK_IMAGES):
            images = rows[start : start + CHUNK_IMAGES].astype(np.float32) / np.float32(WHITE_PIXEL)
            planes = self._coefficients(images.reshape(-1, *self.image[1:]))
            features[start : start + CHUNK_IMAGES] = normalized(planes.reshape(-1, *self.shape))

    def _coefficients(
        self, planes: Float32[np.ndarray, "planes height width"]
    ) -> Float32[np.ndarray, "planes 81 rows columns"]:
        """Order 0, the fine and coarse wavelets' order 1, and order 2: fine, then coarse."""
        from scipy.fft import fft2, ifft2

        fine, coarse = self._wavelets
        # Reflected at the border, so that the period of the Fourier transform makes no edges there.
        padded = np.pad(
            planes, ((0, 0), (AVERAGING_STRIDE, AVERAGING_STRIDE), (AVERAGING_STRIDE, AVERAGING_STRIDE)), mode="reflect"
        )
        spectrum = fft2(padded)[:, None]
        first = np.abs(ifft2(spectrum * fine))
        first_coarse = np.abs(ifft2(halved(spectrum * coarse)))
        second = np.abs(ifft2(halved(fft2(first)[:, :, None] * coarse)))
        orders = (padded[:, None], first, first_coarse, second.reshape(len(planes), -1, *second.shape[-2:]))
        return np.concatenate([self._averaged(order) for order in orders], axis=1)

    def _averaged(self, moduli: Float32[np.ndarray, "planes n h w"]) -> Float32[np.ndarray, "planes n rows columns"]:
        _, height, width = self.image
        down, across = (averaging(size, moduli.shape[axis]) for axis, size in ((-2, height), (-1, width)))
        return down @ moduli @ across.T

    @cached_property
    def _wavelets(self) -> tuple[Float32[np.ndarray, "8 h w"], ...]:
        """Spectra of the Morlet wavelets on padded images, of scale 1 and 2."""
        size = [length + 2 * AVERAGING_STRIDE for length in self.image[1:]]
        return tuple(
            np.stack(
                [morlet(size, scale, np.pi * k / WAVELET_ORIENTATIONS) for k in range(WAVELET_ORIENTATIONS)]
            ).astype(np.float32)
            for scale in (0, 1)
        )


def morlet(size: list[int], scale: int, angle: float) -> Float[np.ndarray, "h w"]:
    """The spectrum of a Morlet wavelet: a bump around its frequency, less one around 0 that makes its mean 0."""
    width = 0.8 * 2**scale  # standard deviation along the wave, in pixels; twice as much across
    frequency = 3 * np.pi / 4 / 2**scale

    def bump(center: float) -> Float[np.ndarray, "h w"]:
        total = np.zeros(size)
        for periods in np.ndindex(5, 5):  # a sampled wavelet's spectrum repeats every 2π
            down, across = (
                2 * np.pi * (np.fft.fftfreq(length) + period - 2) for length, period in zip(size, periods, strict=True)
            )
            along = down[:, None] * np.sin(angle) + across * np.cos(angle) - center
            beside = down[:, None] * np.cos(angle) - across * np.sin(angle)
            total += np.exp(-((width * along) ** 2 + (2 * width * beside) ** 2) / 2)
        return total

    wave, envelope = bump(frequency), bump(0)
    return wave - wave[0, 0] / envelope[0, 0] * envelope


def averaging(size: int, sampled: int) -> Float32[np.ndarray, "outputs sampled"]:
    """The matrix that averages a padded, perhaps halved line of `size` pixels with a Gaussian at every 4th pixel."""
    period = size + 2 * AVERAGING_STRIDE
    outputs = np.arange(AVERAGING_STRIDE, AVERAGING_STRIDE + size, AVERAGING_STRIDE)
    distance = np.abs(outputs[:, None] - np.arange(sampled) * (period // sampled))
    weights = np.exp(-((np.minimum(distance, period - distance) / (0.8 * AVERAGING_STRIDE / 2)) ** 2) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def halved(spectra: Complex[np.ndarray, "... h w"]) -> Complex[np.ndarray, "... h/2 w/2"]:
    """The spectra of images of which every second row and column is kept."""
    *more, height, width = spectra.shape
    return spectra.reshape(*more, 2, height // 2, 2, width // 2).mean(axis=(-4, -2))


def normalized(features: Float32[np.ndarray, "records *shape"]) -> Float32[np.ndarray, "records *shape"]:
    """Mean 0 and variance 1 in each of the 27 groups of channels of a record; no other record takes part."""
    groups = features.reshape(len(features), NORMALIZATION_GROUPS, -1)
    centered = groups - groups.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + VARIANCE_EPSILON)
    return (centered / deviation).reshape(features.shape)
