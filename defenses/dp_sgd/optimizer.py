"""The step of DP-SGD: noise on the clipped sum, then the user's own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor
from torch.optim import Optimizer

Noise = Callable[[Float32[np.ndarray, "count"]], object]
"""Overwrites an array with a model's noise of one step."""


class NoisyOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer for clipped sums, with all noise of a model drawn at once.

    It finds the clipped sum in `p.grad`, adds noise, divides by q·N (never by the realised batch size, which is
    private) and steps. One flat draw per model is faster than one per parameter, and gives a model the same noise
    alone and in a stack.

    Args:
        optimizer: the user's; learning rate schedules keep it.
        expected_batch_size: q·N.
        models: how many models the leading axis of every parameter holds; None if there is no such axis.
        transposed: parameters of a stack with their last two axes the other way round than in a single model.
        reduce: sums a tensor over processes, in place; None if there is only one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        expected_batch_size: float,
        models: int | None = None,
        transposed: Collection[Tensor] = (),
        reduce: Callable[[Tensor], object] | None = None,
    ):
        # Scaled by what draws it: in a stack with adaptive clipping every model has its own C.
        super().__init__(optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=expected_batch_size)
        self.models, self.transposed, self.reduce = models, transposed, reduce
        self.noise: Sequence[Noise] = ()
        """One per model, set anew before every step; none where no noise is added."""
        self._held: list[tuple[Tensor, int]] = []
        self._flat: Float32[np.ndarray, "count"] | None = None
        self._parts: list[Tensor] = []

    def hold(self) -> None:
        """Takes what is in `p.grad` for the clipped sum; it may not change before the noise is added."""
        self._held = [(p.grad, p.grad._version) for p in self.params]

    def accumulate(self) -> None:
        """Nothing: `p.grad` is the whole sum."""

    def add_noise(self) -> None:
        held, self._held = self._held, []
        if not held:
            raise ValueError("optimizer.step() found no clipped gradients; call self.manual_backward(loss) before it")
        for p, (gradient, changes) in zip(self.params, held, strict=True):
            if p.grad is not gradient or gradient._version != changes:
                raise ValueError("gradients were changed after clipping and before the noise; remove what changes them")
        for k, draw in enumerate(self.noise):
            for p, noise in zip(self.params, self._drawn(draw), strict=True):
                gradient = p.grad if self.models is None else p.grad[k]
                gradient.add_(noise.to(gradient.device))
        if self.reduce is not None:
            for p in self.params:
                self.reduce(p.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Always to None: a gradient that is there before clipping is then known not to be clipped."""
        self.original_optimizer.zero_grad(set_to_none=True)

    def release(self) -> Optimizer:
        """The user's optimizer again, with nothing left on its parameters."""
        for p in self.params:
            p.__dict__.pop("summed_grad", None)
            p.grad = None
        original: Optimizer = self.original_optimizer
        return original

    def _drawn(self, draw: Noise) -> list[Tensor]:
        """One model's noise for every parameter, in one draw; the next overwrites it."""
        if self._flat is None:
            shapes = [p.shape if self.models is None else p.shape[1:] for p in self.params]
            sizes = [shape.numel() for shape in shapes]
            self._flat = np.empty(sum(sizes) + sum(sizes) % 2, dtype=np.float32)  # normals come in pairs
            flat = torch.from_numpy(self._flat)[: sum(sizes)]
            self._parts = [
                part.view(shape[::-1]).mT if p in self.transposed else part.view(shape)
                for p, shape, part in zip(self.params, shapes, flat.split_with_sizes(sizes), strict=True)
            ]
        draw(self._flat)
        return self._parts
