"""L2 regularization: small weights fit single records less closely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pytorch_lightning import Callback

from palisade.data.split import Split
from palisade.defenses.parts.losses import Penalty
from palisade.fields import Positive, remedy
from palisade.targets.fleet import Defense, Fitter


@dataclass(frozen=True, kw_only=True)
class L2(Defense):
    """Adds λ/2·‖θ‖² to the loss, whatever the optimizer.

    It narrows the gap between members and others that overfitting opens (Shokri et al. 2017, section 9), and
    guarantees nothing.

    Args:
        weight_decay: λ > 0.

    Raises:
        ValueError: if λ is not positive.
    """

    weight_decay: Annotated[Positive, remedy("choose e.g. 0.001, or defense=none for 0")]

    @property
    def strength(self) -> float:
        """The weight λ of the penalty."""
        return self.weight_decay

    def callbacks(self, fitter: Fitter, split: Split) -> list[Callback]:
        """The penalty, whose gradient is λ·θ."""
        return [Penalty(self.weight_decay, slope=lambda weights: weights)]
