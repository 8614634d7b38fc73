"""Mixup: training on mixtures of two records instead of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.defenses.parts.losses import soft_labels
from palisade.fields import Positive, remedy
from palisade.targets.fleet import Defense


@dataclass(frozen=True, kw_only=True)
class Mixup(Defense):
    """Trains on λ·(x, y) + (1 − λ)·(x', y'), λ ~ Beta(α, α) once a step (Zhang et al. 2018, section 2).

    x' is a random other record of the step. No record is seen as it is, yet each leaves its trace: mixup is known to
    leak more than plain training on tables (Kaya & Dumitras 2021, section 5) and serves as a negative control.

    Args:
        alpha: α > 0; large values mix half and half, small ones hardly.

    Raises:
        ValueError: if α is not positive, or if the records are texts.
    """

    not_on_documents = "tokens are no numbers that could be mixed"
    separable = False
    alpha: Annotated[Positive, remedy("choose e.g. 1, or defense=none for 0")]

    @property
    def strength(self) -> float:
        """The parameter α of the Beta distribution that shares are drawn from."""
        return self.alpha

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        """Mixtures of every record with a random one of its batch; labels are mixed by the same share.

        Raises:
            ValueError: if records are texts.
        """
        if not batch.x.is_floating_point():
            raise ValueError(
                "defense=mixup: expected inputs of numbers, not of words; choose another defense for texts"
            )
        # Padded rows sort last, so that real ones are shuffled among themselves.
        rows = batch.mask.shape[-1]
        ranks = draws("mixup partners", lambda rng: rng.random(rows).argsort().argsort())
        partner = ranks.where(batch.mask, rows).argsort(dim=-1)
        share = draws("mixup share", lambda rng: rng.beta(self.alpha, self.alpha, size=1).astype(np.float32))

        def mixed(values: Tensor) -> Tensor:
            model = torch.arange(len(values), device=values.device).unsqueeze(1)
            partners = values[model, partner] if draws.stacked else values[partner]
            return partners.lerp(values, share.view(*share.shape, *[1] * (values.ndim - share.ndim)))

        return batch._replace(x=mixed(batch.x), targets=mixed(soft_labels(batch)))

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """Cross-entropy of every mixture with its mixed label."""
        if batch.targets is not None:  # mixed before it was known how many classes there are
            absent = logits.shape[-1] - batch.targets.shape[-1]
            batch = batch._replace(targets=F.pad(batch.targets, (0, absent)))
        return super().loss(logits, batch, epoch)
