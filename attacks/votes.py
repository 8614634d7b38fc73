"""Votes: are more of the record's copies classified correctly than under models that did not train on it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks.lira import lira_scores
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.perturbed_copies import PerturbedCopies, aucs
from palisade.attacks.parts.view import View
from palisade.fields import Count, CountFromZero

TIE_DECIMALS = 9
"""Decimals of a score: records with the same votes tie, which sums in another order would undo in the last digits."""


@dataclass(frozen=True, kw_only=True)
class Votes(PerturbedCopies):
    """LiRA on φ = log((votes + ½)/(copies + 1 − votes + ½)), votes = right answers for a record and its copies.

    An attacker who sees labels alone compares each record with itself: its votes under the target against those under
    shadows that did and did not train on it (Carlini et al. 2022, on the labels of Choquette-Choo et al. 2021). Hard
    records then no longer hide behind easy ones, which finds members at low false positive rates. Settings and kinds
    of perturbation are those of `PerturbedCopies`; of the strengths, a target's is the one at which its shadows find
    one another best, the target left out, on a random part of the records (the first one where they are too few).

    Each shadow is asked what the target is asked, and about the trial at every strength: queries a record are the mean
    over target and shadows. Without copies (`calibrated_correctness`) that is the one label.

    Args:
        copies: of each strength and record; 0: the record alone, nothing is perturbed or tuned.
    """

    moves: Sequence[Count] = (1, 2)

    copies: CountFromZero = 16

    @property
    def name(self) -> str:
        """`votes`; without copies `calibrated_correctness`, one vote a record."""
        return "votes" if self.copies else "calibrated_correctness"

    @property
    def idea(self) -> str:
        """Its way in a layman's words; without copies there is one answer."""
        asked = "altered copies of the record" if self.copies else "the record"
        return f"Sees the named class alone: is it right about {asked} more often than models that have never seen it?"

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        def choose(votes: np.ndarray, trial: np.ndarray) -> np.ndarray:
            return best_calibrated(vote_log_odds(votes, self.copies), view.membership[:, trial], view.others)

        votes, chosen = self.tuned_votes(view, choose, calibrated=True)
        scores = room((view.models, view.records))
        for strength in np.unique(chosen):
            phi = vote_log_odds(votes[strength], self.copies)
            targets = chosen == strength
            scores[targets] = lira_scores(phi, view.membership, view.others, view.left_out)[targets]
        return np.round(scores, TIE_DECIMALS, out=scores)


def vote_log_odds(votes: Float[np.ndarray, "*shape"], copies: int) -> Float[np.ndarray, "*shape"]:
    """Log-odds of a right answer among a record and its copies; half a vote either way keeps them finite."""
    log_odds: np.ndarray = np.log((votes + 0.5) / (copies + 1 - votes + 0.5))
    return log_odds


def best_calibrated(
    phi: Float[np.ndarray, "strengths models n"],
    membership: Bool[np.ndarray, "models n"],
    others: Bool[np.ndarray, "models models"],
) -> Int[np.ndarray, "models"]:
    """For each target the strength at which its shadows find one another best; the target takes no part."""
    chosen = np.zeros(len(others), dtype=int)
    for target, shadows in enumerate(others):
        members, rest = membership[shadows], others[np.ix_(shadows, shadows)]
        if rest.any():
            skill = [aucs(lira_scores(at[shadows], members, rest), members) for at in phi]
            known = ~np.isnan(skill)
            means = np.where(known, skill, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
            chosen[target] = np.argmax(means)
    return chosen
