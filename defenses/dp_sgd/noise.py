"""Where noise comes from: a cryptographic stream, by counters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from datamodules.secret import Secret
from defenses.dp_sgd.gaussian import gaussian

SUMMANDS = 4


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """Gaussian noise of every model and step, a function of the secret.

    Args:
        secret: keys the stream.
        secure: whether every value is made of four, so that floating-point arithmetic does not betray it.
    """

    secret: Secret
    secure: bool

    @property
    def description(self) -> str:
        return "ChaCha20 keystream, " + ("sums of four Gaussians (secure_rng)" if self.secure else "Box-Muller")

    def fill(
        self, out: Float32[np.ndarray, "count"], *, model: int, step: int, scale: float, purpose: str = "noise"
    ) -> None:
        """Overwrites `out`, of even length, with N(0, scale²)."""
        stream = self.secret.stream(purpose, model, step)
        gaussian(stream, out, scale=scale, summands=SUMMANDS if self.secure else 1)

    def normal(self, purpose: str, model: int, step: int) -> float:
        """One number from N(0, 1)."""
        pair = np.empty(2, dtype=np.float32)
        self.fill(pair, model=model, step=step, scale=1.0, purpose=purpose)
        return float(pair[0])
