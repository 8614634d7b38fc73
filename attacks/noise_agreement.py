"""Noise agreement: how often is the record still classified correctly when it is disturbed?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks.parts.perturbed_copies import PerturbedCopies, aucs
from palisade.attacks.parts.view import View


@dataclass(frozen=True, kw_only=True)
class NoiseAgreement(PerturbedCopies):
    """Score: share of a record and its disturbed copies that are given the true class.

    Training pushes the decision boundary away from members, so they bear more noise (Choquette-Choo et al. 2021,
    "Label-Only Membership Inference Attacks", section 3; Li & Zhang 2021): hiding every confidence does not hide them.
    The strength that separates members of the other models best, on a random part of the records, is taken for a
    target; settings and kinds of perturbation are those of `PerturbedCopies`. Hard records hide behind easy ones here;
    `Votes` compares each record with itself.
    """

    name = "noise_agreement"
    idea = "Disturbs the record a little, again and again, and counts how often the model still names it right."

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        def choose(votes: np.ndarray, trial: np.ndarray) -> np.ndarray:
            return most_telling(votes, view.membership[:, trial], view.others)

        votes, chosen = self.tuned_votes(view, choose, calibrated=False)
        return votes[chosen, np.arange(view.models)] / (1 + self.copies)


def most_telling(
    votes: Float[np.ndarray, "strengths models n"],
    membership: Bool[np.ndarray, "models n"],
    others: Bool[np.ndarray, "models models"],
) -> Int[np.ndarray, "models"]:
    """For each target the strength that separates members of the other models best."""
    skill = np.array([aucs(at, membership) for at in votes])
    known = ~np.isnan(skill)
    shadows = others.astype(np.float64)
    with np.errstate(invalid="ignore"):
        on_shadows = np.where(known, skill, 0) @ shadows / (known @ shadows)
    return np.argmax(np.nan_to_num(on_shadows), axis=0)
