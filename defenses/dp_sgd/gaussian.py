"""Normal numbers from random bits."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32

from palisade.data.secret import Stream

BLOCK = 2**16
"""Numbers that are made at a time: few enough that they stay in the cache."""


def gaussian(
    draw: Stream, out: Float32[np.ndarray, "count"], *, scale: float, summands: int = 1
) -> Float32[np.ndarray, "count"]:
    """Fills `out` with independent N(0, scale²): sums of Box–Muller transforms.

    Noise protects as far as nobody can predict it, so it is made from a cryptographic stream. Uniforms of 31 bits
    cut the tails of a summand at 6.7 standard deviations; PyTorch's own `normal_` in float32 cuts them at 5.8.

    Four summands are the mitigation of Opacus's secure mode (Holohan & Braghin 2021, "Secure Random Sampling in
    Differential Privacy", section 5.1). Which floating-point numbers one transform can reach is known, and may tell
    what the noise was added to (Mironov 2012, "On Significance of the Least Significant Bits for Differential
    Privacy"; Jin et al. 2022, "Are We There Yet? Timing and Floating-Point Attacks on Differential Privacy Systems");
    the sums of four lie closer and are harder to list. That makes an attack costlier and proves nothing: it leaves
    the rounding of the addition itself (Haney et al. 2022, "Precision-based attacks and interval refining"), the
    sensitivity that rounding raises above C (Casacuberta et al. 2022, "Widespread Underestimation of Sensitivity in
    Differentially Private Libraries and How to Fix It") and the time that a step takes.

    Args:
        draw: overwrites arrays with uniform and independent words.
        out: overwritten; of even length, since normal numbers come in pairs.
        scale: standard deviation > 0.
        summands: how many normal numbers each of these is the sum of, divided by its root.
    """
    spare = np.empty(min(BLOCK, len(out)), dtype=np.float32)
    for start in range(0, len(out), BLOCK):
        block = out[start : start + BLOCK]
        _box_muller(draw, block, variance=scale**2 / summands)
        for _ in range(1, summands):
            block += _box_muller(draw, spare[: len(block)], variance=scale**2 / summands)
    return out


def _box_muller(draw: Stream, values: Float32[np.ndarray, "count"], variance: float) -> Float32[np.ndarray, "count"]:
    """Overwrites `values` with independent N(0, variance)."""
    draw(values.view(np.uint32))
    values[:] = values.view(np.int32)  # uniform between ±2^31; signed integers convert faster
    radius, angle = values[: len(values) // 2], values[len(values) // 2 :]
    radius *= np.float32(2.0**-31)
    radius *= radius
    radius += np.float32(2.0**-64)  # so that the logarithm is finite
    np.log(radius, out=radius)
    radius *= np.float32(-variance)  # −2 ln u = −ln u²
    np.sqrt(radius, out=radius)
    angle *= np.float32(math.pi * 2.0**-31)
    cosine = np.cos(angle)
    np.sin(angle, out=angle)
    angle *= radius
    radius *= cosine
    return values
