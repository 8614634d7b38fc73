"""The source of noise: a cryptographic stream, by counters, and one draw for all parameters of a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.gaussian import gaussian
from palisade.targets.workers import cores

SUMMANDS = 4
AHEAD = 300_000
"""Values below which handing them to a thread takes longer than drawing them."""


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
        """Generator and method of the noise in words, for the statement."""
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


class ParameterNoise:
    """A model's noise of a step for every parameter, from one flat draw.

    One draw is faster than one for each parameter, and gives a model the same noise alone and in a stack. Where a core
    is idle, a thread draws that of the next step ahead; being a function of (secret, model, step) it is the same.

    Args:
        parameters: shape (...) each, or (models, ...) in a stack.
        stacked: whether they lead with a model axis.
        transposed: parameters of a stack with their last two axes the other way round than in a single model.
        ahead: whether a thread may draw ahead, where there is enough to draw.
    """

    def __init__(
        self, parameters: Sequence[Tensor], *, stacked: bool, transposed: Collection[Tensor] = (), ahead: bool = False
    ) -> None:
        self.shapes = [p.shape[1:] if stacked else p.shape for p in parameters]
        self.turned = [p in transposed for p in parameters]
        self._flat = self._buffer()
        self._next: tuple[tuple[NoiseSource, int, int, float], Float32[np.ndarray, "count"], Future[None]] | None = None
        many = len(self._flat) >= AHEAD
        self._thread = ThreadPoolExecutor(1, "noise") if ahead and many else None

    def draw(self, source: NoiseSource, *, model: int, step: int, scale: float) -> list[Tensor]:
        """N(0, scale²) in the shapes of a single model's parameters; the next draw but one overwrites it."""
        drawn, self._next = self._next, None
        if drawn is not None:
            drawn[2].result()
        if drawn is not None and drawn[0] == (source, model, step, scale):
            self._flat, spare = drawn[1], self._flat
        else:
            source.fill(self._flat, model=model, step=step, scale=scale)
            spare = self._buffer() if drawn is None else drawn[1]
        if self._thread is not None:
            future = self._thread.submit(source.fill, spare, model=model, step=step + 1, scale=scale)
            self._next = ((source, model, step + 1, scale), spare, future)
        flat = torch.from_numpy(self._flat)[: sum(shape.numel() for shape in self.shapes)]
        parts = flat.split_with_sizes([shape.numel() for shape in self.shapes])
        return [
            part.view(shape[::-1]).mT if turned else part.view(shape)
            for shape, turned, part in zip(self.shapes, self.turned, parts, strict=True)
        ]

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = self._next = None

    def _buffer(self) -> Float32[np.ndarray, "count"]:
        size = sum(shape.numel() for shape in self.shapes)
        return np.empty(size + size % 2, dtype=np.float32)  # normals come in pairs


def core_is_idle() -> bool:
    """Presence of a core that this process may use and does not compute on."""
    return torch.get_num_threads() < cores()
