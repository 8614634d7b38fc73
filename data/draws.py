"""Random numbers of one step of training, for every model of a stack its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from palisade.data.placement import CPU, sent
from palisade.data.secret import Secret


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of a step, which depend on (secret, purpose, model, step) only.

    So a model sees the same numbers alone and in a stack. A stack pads batches to a common width: draw arrays that
    lead with the batch, since padded rows come last and a longer array begins with the numbers of a shorter one.

    Args:
        secret: of the run.
        models: the models that are trained together.
        step: of the training.
        stacked: whether batches lead with a model axis.
        device: where batches lie; numbers are drawn on the CPU all the same.
    """

    secret: Secret
    models: Sequence[int]
    step: int
    stacked: bool
    device: torch.device = CPU
    count: ClassVar[int] = 0
    """Draws of this process so far: whether something was random at all."""

    def __call__(
        self, purpose: str, draw: Callable[[np.random.Generator], Shaped[np.ndarray, "*shape"]]
    ) -> Shaped[Tensor, "*models *shape"]:
        """Arrays that `draw` makes of each model's generator; every purpose has generators of its own."""
        Draws.count += 1
        drawn = [torch.from_numpy(draw(self.secret.numpy(purpose, model, self.step))) for model in self.models]
        return sent(torch.stack(drawn) if self.stacked else drawn[0], self.device)
