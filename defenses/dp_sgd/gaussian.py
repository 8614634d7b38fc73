"""Normal numbers from random bits."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, UInt32


def gaussian(
    bits: UInt32[np.ndarray, "count"], out: Float32[np.ndarray, "count"], *, scale: float
) -> Float32[np.ndarray, "count"]:
    """Fills `out` with independent N(0, scale²): the Box–Muller transform.

    Noise protects as far as nobody can predict it, so it is made from a cryptographic stream. Uniforms of 24 bits
    cut the tails at 5.9 standard deviations, as PyTorch's own `normal_` in float32 does. The gaps between
    floating-point numbers still tell something about the sum beneath the noise (Mironov 2012, "On Significance of
    the Least Significant Bits for Differential Privacy"); that is not mitigated.

    Args:
        bits: uniform and independent; an even number of words.
        out: overwritten; of the same length.
        scale: standard deviation > 0.
    """
    radius, angle = out[: len(out) // 2], out[len(out) // 2 :]
    out[:] = (bits >> 8).view(np.int32)  # signed integers convert faster
    radius *= np.float32(2.0**-24)
    radius += np.float32(2.0**-25)  # the middle of the interval, so that the logarithm is finite
    np.log(radius, out=radius)
    radius *= np.float32(-2 * scale**2)
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * math.pi * 2.0**-24)
    cosine = np.cos(angle)
    np.sin(angle, out=angle)
    angle *= radius
    radius *= cosine
    return out
