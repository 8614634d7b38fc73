"""RelaxLoss: training towards a loss that records outside the training set can reach, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.fields import NonNegative
from palisade.targets.fleet import Defense


@dataclass(frozen=True, kw_only=True)
class RelaxLoss(Defense):
    """Keeps the mean loss of a batch near α instead of 0 (Chen et al. 2022, algorithm 1).

    Even epochs minimize |mean loss − α|, by gradient ascent where it is below. Odd epochs descend where it is above;
    where it is below, they flatten posteriors: the true class keeps the confidence it has, the others share the rest
    evenly, so that labels stay right. It is the mean loss of members that becomes that of others: single records still
    stand out, which LiRA finds (Aerni et al. 2024).

    Args:
        alpha: α ≥ 0 in nats; a larger one protects more and costs more accuracy, 0 is plain training.

    Raises:
        ValueError: if α is negative or not finite.
    """

    separable = False
    attacks = ("lira",)
    alpha: Annotated[NonNegative, Field(examples=[0.5])]

    @property
    def strength(self) -> float:
        """The target loss α, in nats."""
        return self.alpha

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """Loss of every record; below α in the batch's mean, ascent in even epochs, flattened labels in odd ones."""
        losses = super().loss(logits, batch, epoch)
        rows = batch.mask.sum(dim=-1, keepdim=True).clamp(min=1)
        above = losses.where(batch.mask, 0).sum(dim=-1, keepdim=True) / rows > self.alpha
        if epoch % 2 == 0:  # these sum to |mean − α| times the number of records
            return (losses - self.alpha).where(above, self.alpha - losses)
        flattened = batch._replace(targets=_flattened(logits.detach(), batch))
        return losses.where(above, super().loss(logits, flattened, epoch))


def _flattened(logits: Float[Tensor, "*models batch classes"], batch: Batch) -> Float[Tensor, "*models batch classes"]:
    """Soft labels: as much on the true class as the model gives it now, the rest evenly on the others."""
    classes = logits.shape[-1]
    is_true = F.one_hot(batch.y.clamp(min=0), classes).bool()
    confidence = logits.softmax(dim=-1).where(is_true, 0).sum(dim=-1, keepdim=True)
    return confidence.where(is_true, (1 - confidence) / (classes - 1))
