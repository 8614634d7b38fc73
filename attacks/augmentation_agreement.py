"""Augmentation agreement: how many of a record's augmented copies are still classified correctly?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class AugmentationAgreement(Attack):
    """Score: share of a record's queries, itself and its augmented copies, that are given the true class.

    Choquette-Choo et al. 2021, "Label-Only Membership Inference Attacks", section 3. A model trained with these
    augmentations has fitted the members' copies as well, and answers alike only for them; labels are all it takes.
    """

    name = "augmentation_agreement"
    idea = (
        "Shows the model altered copies of the record, such as mirrored ones, and counts how many it still names right."
    )
    threat = ThreatModel(queries=None, one_class=True)

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, one query a record has no copies to agree."""
        alone = "needs augmented copies of the records; set queries=[plain,mirrored,left]"
        return super().missing(view) or (alone if view.queries < 2 else None)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        shape = view.correct.shape[:2]
        return in_blocks(shape, view.blocks(), lambda block: view.correct[:, block].mean(axis=2))
