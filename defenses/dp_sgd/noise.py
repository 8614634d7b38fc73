"""Noise: keys per fit, and Gaussian draws that are added where the sum is written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.optim import Optimizer

from palisade.data.placement import sent
from palisade.data.secret import Secret, Stream
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.targets.engines.local import cores

VALUES_PER_BLOCK = 2**16
"""Numbers that are made at a time: few enough that they stay in the cache."""
NOISE_SUMMANDS = 4
STEPS_PER_COPY = 64
"""Steps whose single numbers are drawn, and go to a device, together."""
MIN_VALUES_PER_THREAD = 300_000
"""Values below which handing them to a thread takes longer than drawing them."""


def identities(
    module: nn.Module,
    optimizer: Optimizer,
    mechanism: Mechanism,
    *,
    purpose: str,
    models: Sequence[int],
    transposed: Collection[Tensor] = (),
) -> list[str]:
    """Identity of a fit among others under one secret, one text for every model; nothing in it is private.

    Two fits with one noise stream would let whoever holds both models take the noise off. The number of steps is left
    out, so that a fit can be continued, and so are the records, since the streams of neighboring data sets must be
    equal for tests: two data sets under one given secret are named in the statement instead.

    Args:
        module: before its first step.
        optimizer: the user's.
        mechanism: has σ, C, q, N and the kind of clipping.
        purpose: "fit", or the run or release that the models belong to.
        models: their numbers; several are a stack.
        transposed: parameters of a stack with their last two axes the other way round than in a single model.
    """
    settings = sorted((name, repr(value)) for name, value in optimizer.defaults.items())
    numbers = [mechanism.noise_multiplier, mechanism.max_grad_norm, mechanism.sampling_rate, mechanism.public_size]
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    texts = []
    for position, model in enumerate(models):
        weights = hashlib.sha256()
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            value = parameter.detach()
            if len(models) > 1:
                value = value[position].mT if parameter in transposed else value[position]
            weights.update(name.encode())
            weights.update(value.cpu().double().contiguous().numpy().tobytes())
        texts.append(
            json.dumps(
                [
                    kind,
                    type(optimizer).__qualname__,
                    settings,
                    *numbers,
                    mechanism.clipping,
                    purpose,
                    model,
                    weights.hexdigest(),
                ]
            )
        )
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def fit_secret(secret: Secret, identity: str) -> Secret:
    """The secret of one model's fit, by HMAC of what identifies it."""
    return secret.sealed(identity)


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
    spare = np.empty(min(VALUES_PER_BLOCK, len(out)), dtype=np.float32)
    for start in range(0, len(out), VALUES_PER_BLOCK):
        block = out[start : start + VALUES_PER_BLOCK]
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
        gaussian(stream, out, scale=scale, summands=NOISE_SUMMANDS if self.secure else 1)

    def normal(self, purpose: str, model: int, step: int) -> float:
        """One number from N(0, 1)."""
        pair = np.empty(2, dtype=np.float32)
        self.fill(pair, model=model, step=step, scale=1.0, purpose=purpose)
        return float(pair[0])


Draw = tuple[tuple[NoiseSource, ...], tuple[int, ...], int, tuple[float, ...]]
"""Arguments that fix the noise of a step: sources, models, step, standard deviations."""


class ParameterNoise:
    """The noise of a step for every parameter, from one flat draw for each model, which goes to the device in one copy.

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
        self.leading = parameters[0].shape[:1] if stacked else torch.Size()
        self.device = parameters[0].device
        self.pinned = self.device.type == "cuda"
        self._flat = self._buffer()
        self._next: tuple[Draw, Float32[Tensor, "models count"], Future[None]] | None = None
        many = self._flat.numel() >= MIN_VALUES_PER_THREAD
        self._thread = ThreadPoolExecutor(1, "noise") if ahead and many else None

    def draw(
        self,
        sources: Sequence[NoiseSource],
        *,
        models: Sequence[int],
        step: int,
        scales: Sequence[float],
        times: Float32[Tensor, " models"] | None = None,
    ) -> list[Tensor]:
        """Each model's N(0, scale²) in the shapes of the parameters, on their device; the next draw overwrites it.

        Args:
            sources: one for every model.
            models: their numbers.
            step: of the training.
            scales: standard deviations of what is drawn.
            times: what it is multiplied by on the device; its values may be unknown to the host.
        """
        wanted: Draw = (tuple(sources), tuple(models), step, tuple(scales))
        drawn, self._next = self._next, None
        if drawn is not None:
            drawn[2].result()
        if drawn is not None and drawn[0] == wanted:
            self._flat, spare = drawn[1], self._flat
        else:
            # A pinned buffer may still be copied from: a new one comes from memory that is no longer.
            self._flat = self._buffer() if self.pinned else self._flat
            _fill(self._flat, wanted)
            spare = self._buffer() if drawn is None else drawn[1]
        if self._thread is not None:
            following: Draw = (*wanted[:2], step + 1, wanted[3])
            spare = self._buffer() if self.pinned else spare
            self._next = (following, spare, self._thread.submit(_fill, spare, following))
        there = sent(self._flat, self.device)
        return self._shaped(there if times is None else there.mul_(times.to(self.device).unsqueeze(1)))

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = self._next = None

    def _shaped(self, flat: Float32[Tensor, "models count"]) -> list[Tensor]:
        sizes = [shape.numel() for shape in self.shapes]
        parts = flat[:, : sum(sizes)].split_with_sizes(sizes, dim=1)
        return [
            part.view((*self.leading, *shape[::-1])).mT if turned else part.view((*self.leading, *shape))
            for shape, turned, part in zip(self.shapes, self.turned, parts, strict=True)
        ]

    def _buffer(self) -> Float32[Tensor, "models count"]:
        size = sum(shape.numel() for shape in self.shapes)
        models = self.leading.numel()
        return torch.empty(models, size + size % 2, pin_memory=self.pinned)  # normals come in pairs


def _fill(flat: Float32[Tensor, "models count"], draw: Draw) -> None:
    sources, models, step, scales = draw
    for row, source, model, scale in zip(flat.numpy(), sources, models, scales, strict=True):
        source.fill(row, model=model, step=step, scale=scale)


class StepNormals:
    """One number from N(0, 1) for every model and step; those of many steps go to the device in one copy.

    Args:
        sources: one for every model.
        models: their numbers.
        device: where they are used.
    """

    def __init__(self, sources: Sequence[NoiseSource], models: Sequence[int], device: torch.device) -> None:
        self.sources, self.models, self.device = sources, models, device
        self._block, self._drawn = -1, torch.empty(0)

    def at(self, step: int) -> Float32[Tensor, " models"]:
        """The numbers of a step, on the device."""
        block, place = divmod(step, STEPS_PER_COPY)
        if block != self._block:
            steps = range(block * STEPS_PER_COPY, (block + 1) * STEPS_PER_COPY)
            each = list(zip(self.sources, self.models, strict=True))
            drawn = [[source.normal("clipping", model, number) for source, model in each] for number in steps]
            self._block, self._drawn = block, sent(torch.tensor(drawn), self.device)
        return self._drawn[place]


def core_is_idle() -> bool:
    """Presence of a core that this process may use and does not compute on."""
    return torch.get_num_threads() < cores()
