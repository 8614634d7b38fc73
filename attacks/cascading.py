"""Cascading: whom LiRA finds surely, further shadows hold or leave out for sure, and LiRA looks again at the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from palisade.attacks.lira import lira_scores
from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.signals import standardized
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Count

ANCHOR_FPR = 0.01  # of the shadows, above whose threshold a record is an IN anchor
ANCHOR_FNR = 0.03  # of the shadows, below whose threshold a record is an OUT anchor
SPREAD_TOLERANCE = 4.0  # models whose spread on the rest is off by a smaller factor stay as they are


class Anchors(NamedTuple):
    """The records whose membership in a target the first round takes for sure."""

    inside: Bool[np.ndarray, "records"]
    outside: Bool[np.ndarray, "records"]

    @property
    def rest(self) -> Bool[np.ndarray, "records"]:
        """Records that the first round leaves open."""
        return ~(self.inside | self.outside)


@dataclass(frozen=True, kw_only=True)
class Cascading(Attack):
    """The cascading membership inference attack (CMIA, NDSS 2026): LiRA twice, on shadows ever more like the target.

    What a model answers about one record depends on the others that it was trained on. Records that LiRA places above
    the threshold of 1 % FPR, or below that of 3 % FNR, become anchors; further shadows all hold the former, none the
    latter, and the rest by coins. LiRA looks at the rest again. Anchors keep their first score, the rest get the mean
    of both: likelihood ratios are on one scale. Placing all IN anchors above the rest would leave the TPR at 1 % FPR
    that of LiRA wherever they hold 1 % of the non-members, as they do by their very threshold.

    It trains models, hence attacks the first `targets` of the fleet only: the rows of all others are NaN.

    Args:
        targets: how many models are attacked, the first ones of the fleet.
        shadows: how many further shadows are trained for each of them, at least 4.

    Raises:
        ValueError: if a number is out of range.
    """

    targets: Count = 2
    shadows: Annotated[int, Field(ge=4)] = 32

    idea = (
        "Works as LiRA does, twice: whom the first round is sure of helps to train models that resemble this one more."
    )

    @property
    def name(self) -> str:
        """`cascading`, its key in `conf/attack`."""
        return "cascading"

    @property
    def threat(self) -> ThreatModel:
        """Scores of IN and OUT shadows, and `shadows` further ones for each of `targets` models."""
        further = self.targets * self.shadows
        return ThreatModel(outputs="top-k", shadows="online", further_shadows=further, independent_membership=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.further_shadows is not None
        phi, membership, others = view.standardized_log_odds[:, :, 0], view.membership, view.others
        first = lira_scores(phi, membership, others)
        scores = room(first.shape)
        scores[:] = np.nan
        for target in range(min(self.targets, len(phi))):
            shadows = others[target]
            among = lira_scores(phi[shadows], membership[shadows], others[np.ix_(shadows, shadows)])
            anchors = anchors_of(first[target], among, membership[shadows])
            second = np.full(len(first[target]), np.nan)
            if anchors.rest.any():
                seen = view.further_shadows(target, anchors.inside, anchors.outside, self.shadows)
                alone = ~np.eye(seen.models, dtype=bool)
                # Chosen by the target's own answers, the rest has another center and spread there than on shadows.
                rest = standardized(seen.log_odds, tolerance=SPREAD_TOLERANCE)[:, :, 0]
                second[anchors.rest] = lira_scores(rest, seen.membership, alone)[0]
            scores[target] = cascaded(first[target], second, anchors)
        return scores


def anchors_of(
    first: Float[np.ndarray, "records"],
    among: Float[np.ndarray, "shadows records"],
    membership: Bool[np.ndarray, "shadows records"],
) -> Anchors:
    """The records whose first score is beyond the thresholds that the shadows set; none where the two cross.

    Args:
        first: the target's scores; NaN is never an anchor.
        among: the shadows' scores, each by the other shadows: the target has no part in them.
        membership: of the shadows.
    """
    scored = ~np.isnan(among)
    members, nonmembers = among[scored & membership], among[scored & ~membership]
    if not len(members) or not len(nonmembers):
        none = np.zeros(len(first), dtype=bool)
        return Anchors(none, none)
    inside, outside = first > np.quantile(nonmembers, 1 - ANCHOR_FPR), first < np.quantile(members, ANCHOR_FNR)
    return Anchors(inside & ~outside, outside & ~inside)


def cascaded(
    first: Float[np.ndarray, "records"], second: Float[np.ndarray, "records"], anchors: Anchors
) -> Float[np.ndarray, "records"]:
    """Scores of one target: the first ones of anchors, the mean of both rounds for the rest.

    Args:
        first: log-likelihood ratios of the first round.
        second: those of the second, of which the anchors' are not read; where NaN, the first alone counts.
        anchors: of the first round.
    """
    both = anchors.rest & ~np.isnan(second)
    return np.where(both, (first + np.where(both, second, 0.0)) / 2, first)
