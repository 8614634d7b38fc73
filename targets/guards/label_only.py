"""Label only: the predicted class and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from palisade.targets.guards.guard import Guard, Query


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Guard):
    """The predicted class alone.

    It leaves the leakage by errors and by the distance to the decision boundary (Choquette-Choo et al. 2021,
    "Label-Only Membership Inference Attacks"). It divides leakage and does not remove it: to an attacker with shadow
    models one label reveals about a quarter of what scores do, and copies of the record win back most of the rest
    (`attacks.Votes`).
    """

    name = "label_only"
    level = "label"

    def answer(self, query: Query) -> Int64[np.ndarray, " records"]:
        """The predicted classes."""
        return query.logits.argmax(axis=-1)
