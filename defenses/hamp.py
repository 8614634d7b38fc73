"""HAMP: high-entropy soft labels and a reward for uncertain predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from scipy.optimize import brentq
from scipy.special import entr
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.fields import Fraction, NonNegative
from palisade.targets.fleet import Defense


@dataclass(frozen=True, kw_only=True)
class HAMP(Defense):
    """Trains on KL(soft label ‖ prediction) − α·H(prediction) (Chen & Pattabiraman 2024, section III).

    The model is to be as unsure about members as about others. The third part, which swaps the confidences of an answer
    for those of a random input, is the guard `hamp_output`. Both hide how sure the model is, not what it answers: the
    gap between training and test accuracy remains.

    Args:
        entropy: γ in (0, 1): a soft label has entropy γ·log(classes), a larger one protects more.
        alpha: α ≥ 0, the weight of the prediction's entropy H, in nats as is KL. (The authors' code divides KL by the
            number of classes: their 0.001 on Location30 is 0.03 here.)

    Raises:
        ValueError: if γ or α is out of range.
    """

    not_on_documents = "its soft labels have the entropy of one answer a record"
    attacks = ("lira",)
    entropy: Annotated[Fraction, Field(examples=[0.5])]
    alpha: Annotated[NonNegative, Field(examples=[0.03])]

    @property
    def strength(self) -> float:
        """Entropy of the soft labels, as a share of the largest possible."""
        return self.entropy

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """KL(soft label ‖ prediction) − α·H(prediction) of every record, in nats."""
        classes = logits.shape[-1]
        p = confidence(self.entropy, classes)
        targets = F.one_hot(batch.y, classes) * (p - (1 - p) / (classes - 1)) + (1 - p) / (classes - 1)
        divergence = super().loss(logits, batch._replace(targets=targets), epoch) - self.entropy * math.log(classes)
        uncertainty = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)
        return divergence - self.alpha * uncertainty


@cache
def confidence(entropy: float, classes: int) -> float:
    """Share of the true class in a soft label whose entropy is `entropy`·log(classes), to 1e-12."""

    def excess(p: float) -> float:
        return float(entr(p) + entr(1 - p) + (1 - p) * math.log(classes - 1) - entropy * math.log(classes))

    return float(brentq(excess, 1 / classes, 1, xtol=1e-12))
