"""Label smoothing: every class gets a share of each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.defenses.parts.losses import soft_labels
from palisade.fields import Fraction, remedy
from palisade.targets.fleet import Defense


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Defense):
    """Trains on (1 − a)·label + a/C instead of the label (Szegedy et al. 2016, section 7).

    Confidence on members is capped, but so evenly that members stand out even more: it is known to leak more than
    plain training (Kaya & Dumitras 2021, section 5) and serves as a negative control.

    Args:
        amount: a, the share of a label that is spread over all classes, between 0 and 1.

    Raises:
        ValueError: if a is out of range.
    """

    amount: Annotated[Fraction, remedy("choose e.g. 0.1, or defense=none for 0")]

    @property
    def strength(self) -> float:
        """The share a of a label that all classes get."""
        return self.amount

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """Cross-entropy of every record with its smoothed label."""
        classes = logits.shape[-1]
        smoothed = (1 - self.amount) * soft_labels(batch, classes) + self.amount / classes
        return super().loss(logits, batch._replace(targets=smoothed), epoch)
