"""Labels as probabilities: what defenses that change labels start from."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from palisade.data.loaders import Batch


def soft_labels(batch: Batch, classes: int = -1) -> Float[Tensor, "*models batch classes"]:
    """The probabilities that a step is to learn: its soft labels, or all on the class of each record.

    Args:
        batch: of a step.
        classes: how many there are; −1: as many as the step's largest label asks for.
    """
    return F.one_hot(batch.y, classes).float() if batch.targets is None else batch.targets
