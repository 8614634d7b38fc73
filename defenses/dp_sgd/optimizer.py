"""The step of DP-SGD: noise on the clipped sum, then the user's own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt32
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor
from torch.optim import Optimizer

from defenses.dp_sgd.gaussian import gaussian

Draw = Callable[..., UInt32[np.ndarray, "count"]]


class NoisyOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer for clipped sums, with all noise of a model drawn at once from its own random bits.

    It finds the clipped sum in `p.grad`, adds N(0, σ²C²), divides by q·N (never by the realised batch size, which is
    private) and steps. One flat draw per model is faster than one per parameter, and gives a model the same noise
    alone and in a stack.

    Args:
        optimizer: the user's; learning rate schedules keep it.
        noise_multiplier: σ ≥ 0; 0 draws nothing.
        max_grad_norm: C.
        expected_batch_size: q·N.
        models: how many models the leading axis of every parameter holds; None if there is no such axis.
        transposed: parameters of a stack with their last two axes the other way round than in a single model.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        models: int | None = None,
        transposed: Collection[Tensor] = (),
    ):
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )
        self.models, self.transposed = models, transposed
        self.bits: Sequence[Draw] = ()
        """One per model, called with `count=` words; set anew before every step that adds noise."""
        self._flat: Float32[np.ndarray, "count"] | None = None
        self._parts: list[Tensor] = []

    def accumulate(self) -> None:
        """Nothing: `p.grad` is the whole sum."""

    def add_noise(self) -> None:
        if self.noise_multiplier == 0:
            return
        for k, draw in zip(range(self.models or 1), self.bits, strict=True):
            for p, noise in zip(self.params, self._noise(draw), strict=True):
                gradient = p.grad if self.models is None else p.grad[k]
                gradient.add_(noise.to(gradient.device))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Always to None: a gradient that is there before clipping is then known not to be clipped."""
        self.original_optimizer.zero_grad(set_to_none=True)

    def release(self) -> Optimizer:
        """The user's optimizer again, with nothing left on its parameters."""
        for p in self.params:
            del p.summed_grad
            p.grad = None
        original: Optimizer = self.original_optimizer
        return original

    def _noise(self, draw: Draw) -> list[Tensor]:
        """One model's noise for every parameter, in one draw that stays in the cache; the next overwrites it."""
        if self._flat is None:
            shapes = [p.shape if self.models is None else p.shape[1:] for p in self.params]
            sizes = [shape.numel() for shape in shapes]
            self._flat = np.empty(sum(sizes) + sum(sizes) % 2, dtype=np.float32)  # normals come in pairs
            flat = torch.from_numpy(self._flat)[: sum(sizes)]
            self._parts = [
                part.view(shape[::-1]).mT if p in self.transposed else part.view(shape)
                for p, shape, part in zip(self.params, shapes, flat.split_with_sizes(sizes), strict=True)
            ]
        gaussian(draw(count=len(self._flat)), self._flat, scale=self.noise_multiplier * self.max_grad_norm)
        return self._parts
