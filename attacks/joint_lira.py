"""Joint LiRA: LiRA on what the membership of similar records leaves unexplained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from palisade.attacks.lira import LiRA
from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.leave_one_out import within_record_slopes
from palisade.attacks.parts.signals import standardized
from palisade.attacks.parts.similarity import Similarities, unit
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Count

EVIDENCE_SHARPNESS = 0.8  # LiRA takes its evidence for stronger than it is
SPREAD_TOLERANCE = 2.0
FEATURE_SHADOWS = 4


@dataclass(frozen=True, kw_only=True)
class JointLiRA(Attack):
    """LiRA on log-odds that are corrected for the membership of similar records.

    A record is easier where similar ones of its class were trained on. Of the shadows their membership is known: sums
    of it, weighed by similarity (`Similarities`), are fitted to what φ varies by among the shadows that did (did not)
    train on a record. The fit is subtracted from the shadows, and from the target with its own memberships as inferred
    in the round before, plain LiRA at first.

    Similar are records whose features point in one direction: the features themselves if they are vectors of numbers;
    otherwise the last hidden layer of up to four shadows, each at length 1, one after the other, as hidden layers of
    different models share no axes.

    Args:
        targets: how many models are attacked, those with the lowest numbers; None: all. All others are shadows still.
        records: how many it attacks at most, skipped where there are more; None: any number. Time grows with their
            square: seconds for thousands, many minutes for 50,000.
        rounds: how often the memberships of the target are inferred anew and subtracted.

    Raises:
        ValueError: if `targets`, `records` or `rounds` is no count.
    """

    targets: Count | None = None
    records: Count | None = 10_000
    rounds: Count = 2

    idea = "Works as LiRA does, and allows for similar records, which make a record easier whether it was used or not."

    @property
    def name(self) -> str:
        """`joint_lira`, its key in `conf/attack`."""
        return "joint_lira"

    @property
    def threat(self) -> ThreatModel:
        """Scores of IN and OUT shadows at all queries of the view, and the records, to compare them."""
        return ThreatModel(
            outputs="top-k", shadows="online", features=True, shadow_features=True, queries=None,
            independent_membership=True,
        )  # fmt: skip

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, more records than `records` to compare in pairs."""
        many = self.records is not None and view.records > self.records
        limit = (
            f"compares every record with every other; set attack.joint_lira.records={view.records}, and take some time"
        )
        return super().missing(view) or (limit if many else None)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        scores = np.full(view.membership.shape, np.nan)
        alike: dict[tuple[int, ...], list[int]] = {}
        for target in range(view.models if self.targets is None else min(self.targets, view.models)):
            alike.setdefault(_feature_shadows(view, target), []).append(target)
        for shadows, targets in alike.items():
            features, of_shadows = view.features, view.shadow_features
            if not shadows and not view.vectors:
                continue  # no shadow of this target describes the records
            if of_shadows is not None and shadows:
                hidden = [unit(np.asarray(of_shadows[k], dtype=np.float32)) for k in shadows]
                features = np.concatenate(hidden, axis=1)
            assert features is not None
            similar = Similarities(features=features, labels=view.labels, persons=view.persons)
            scores[targets] = self._score_targets(view, np.array(targets), similar)
        return scores

    def _score_targets(
        self, view: View, targets: Int[np.ndarray, "targets"], similar: Similarities
    ) -> Float[np.ndarray, "targets records"]:
        # How many of a class a model was trained on moves all its φ, which the sums explain: only misfits are moved.
        phi = standardized(view.log_odds, tolerance=SPREAD_TOLERANCE).mean(axis=-1)
        members, others = view.membership, view.others[targets]
        sums = similar.sums(members - 0.5)  # around 0; what is the same in all models cancels in LiRA
        slopes = within_record_slopes(phi, sums, members, others)
        scores = LiRA().ratio(phi[targets], phi, members, others)
        for _ in range(self.rounds):
            inferred = np.where(np.isnan(scores), 0.0, expit(EVIDENCE_SHARPNESS * scores) - 0.5)
            expected = np.einsum("trk,tk->tr", similar.sums(inferred), slopes)
            for place, target in enumerate(targets):
                rest = phi.copy()  # whatever is no shadow stays as it is: even what rounding does is to be independent
                largest = max(np.abs(slopes[place]).max(), np.finfo(np.float64).tiny)  # may exceed float32's range
                rest[others[place]] -= largest * (sums[others[place]] @ (slopes[place] / largest).astype(np.float32))
                own = (phi[target] - expected[place])[None]
                scores[place] = LiRA().ratio(own, rest, members, others[[place]])[0]
        return scores


def _feature_shadows(view: View, target: int) -> tuple[int, ...]:
    """The shadows whose hidden layers describe the records to a target's attacker; none where records are vectors."""
    if view.shadow_features is None:
        return ()
    return tuple(np.flatnonzero(view.others[target][: len(view.shadow_features)])[:FEATURE_SHADOWS].tolist())
