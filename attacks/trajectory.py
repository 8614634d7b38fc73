"""The loss trajectory: how a record was learnt, not only how well."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.cross_fitting import boosted_trees, cross_fit
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

MIN_LOSS = 1e-30  # of a loss: one that float32 rounded to 0


@dataclass(frozen=True, kw_only=True)
class Trajectory(Attack):
    """Score: log-odds of membership by a classifier on a record's losses over training (Liu et al. 2022, section 4).

    Two records of the same final loss differ in how they came to it: a non-member is soon as well known as it will
    ever be, a hard member goes on being learnt. The paper distils the target to guess its past; here the kept
    checkpoints are that past, which makes the attacker a stronger one.

    Args:
        seed: of the (model, record) pairs that the classifier is fitted on.
    """

    seed: Seed = 0

    name = "trajectory"
    idea = "Holds copies of the model from its training, and looks at how the record was learned, not only how well."
    threat = ThreatModel(shadows="online", checkpoints=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        every_loss = view.trajectory
        assert every_loss is not None

        def log_odds(model: int, records: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n checkpoints"]:
            losses = np.maximum(every_loss[model, records], MIN_LOSS, dtype=np.float64)
            return np.asarray(-losses - np.log(-np.expm1(-losses)))  # φ, as loss = log(1 + e^−φ)

        return cross_fit(
            log_odds,
            view.membership,
            view.others,
            partial(boosted_trees, self.seed),
            parts=view.parts,
            seed=self.seed,
        )
