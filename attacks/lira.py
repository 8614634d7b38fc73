"""LiRA: is the record's log-odds more likely under models that trained on it than under models that did not?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammaln

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks, room
from palisade.attacks.parts.leave_one_out import LEAST_VARIANCE, LeftOut, Moments, Side, pooled_variance
from palisade.attacks.parts.lira_reference import reference_scores
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View

PRIOR_MODELS = 4.0  # ν: how many models' worth of evidence the pooled variance weighs
LEAST_PER_RECORD = 8  # models a side below which a variance of their own is mostly noise


@dataclass(frozen=True, kw_only=True)
class LiRA(Attack):
    """The likelihood ratio attack (Carlini et al. 2022, sections 4 and 5), with the target left out of every fit.

    It compares a record with itself: its log-odds φ under the target against φ under the shadows that did (IN) and did
    not (OUT) train on it, all models brought to one scale (`signals.standardized`). Hard records then no longer hide
    behind easy ones, which finds members at low false positive rates. Online: log p(φ; IN) − log p(φ; OUT). Offline,
    without IN: the one-sided z = (φ − μ_OUT)/σ_OUT itself; a cdf of it saturates into ties, a two-sided density would
    call records with unusually *low* φ members.

    Args:
        online: whether shadows that trained on the record are used.
        variance: "shrunk": each record's variance, drawn towards the pooled one by ν = 4 models' worth of evidence, and
            scored by the Student-t predictive of that posterior; "fixed": the variance pooled within records;
            "per_record": each record's own, no score below 8 models a side.
        compat: "carlini" computes what the paper's own code does (`lira_reference`), for comparison with published
            numbers only: it is weaker. With its own variances if "per_record", otherwise with its fixed one.

    Raises:
        ValueError: if `variance` or `compat` is unknown.
    """

    online: bool = True
    variance: Literal["shrunk", "fixed", "per_record"] = "shrunk"
    compat: Literal["carlini"] | None = None

    @property
    def name(self) -> str:
        """`lira` with IN and OUT shadows, `lira_offline` with OUT shadows alone."""
        return "lira" if self.online else "lira_offline"

    @property
    def idea(self) -> str:
        """Its way in a layman's words, by the models that it compares with."""
        if self.online:
            return "Trains models of its own, with and without the record, and asks which of them this one resembles."
        return "Trains models of its own without the record, and asks whether this one knows it better than they do."

    @property
    def threat(self) -> ThreatModel:
        """Scores of shadows, IN and OUT or OUT alone, at all queries of the view."""
        return ThreatModel(outputs="top-k", shadows="online" if self.online else "offline", queries=None)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        if self.compat is not None:
            own = self.variance == "per_record"
            evidence = view.log_odds, view.membership, view.others, view.left_out
            return reference_scores(*evidence, online=self.online, per_record=own)
        fleet = view.membership, view.others, view.left_out
        total = room(view.membership.shape)
        for query, phi in enumerate(np.moveaxis(view.standardized_log_odds, -1, 0)):
            scores = self.ratio(phi, phi, *fleet) if self.online else self._distance(phi, *fleet)
            for block in view.blocks():
                total[:, block] = scores[:, block] if query == 0 else total[:, block] + scores[:, block]
        for block in view.blocks():
            total[:, block] /= view.standardized_log_odds.shape[2]
        return total

    def _distance(
        self,
        phi: Float[np.ndarray, "models records"],
        membership: Bool[np.ndarray, "models records"],
        others: Bool[np.ndarray, "models models"],
        left_out: LeftOut,
    ) -> Float[np.ndarray, "models records"]:
        """The offline score."""
        outside = Side(phi, membership, others, left_out, inside=False)
        pooled = pooled_variance(outside.within())

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            moments = outside.moments(block)
            return (phi[:, block] - moments.mean) / self._scale(moments, pooled)

        return in_blocks(phi.shape, outside.blocks(), score)

    def ratio(
        self,
        own: Float[np.ndarray, "targets records"],
        phi: Float[np.ndarray, "models records"],
        membership: Bool[np.ndarray, "models records"],
        others: Bool[np.ndarray, "targets models"],
        left_out: LeftOut = None,
    ) -> Float[np.ndarray, "targets records"]:
        """The online log-likelihood ratio of the targets' `own` signal against that of their shadows, `phi`."""
        outside, inside = (Side(phi, membership, others, left_out, inside=side) for side in (False, True))
        of_outside, of_inside = outside.within(), inside.within()
        pooled_in, pooled_out = pooled_variance(of_inside, of_outside), pooled_variance(of_outside, of_inside)

        def score(block: slice) -> Float[np.ndarray, "targets block"]:
            likely_in = self._log_density(own[:, block], inside.moments(block), pooled_in)
            return likely_in - self._log_density(own[:, block], outside.moments(block), pooled_out)

        return in_blocks(own.shape, outside.blocks(), score)

    def _scale(self, shadows: Moments, pooled: Float[np.ndarray, "targets 1"]) -> Float[np.ndarray, "targets #records"]:
        """The standard deviation that a further model's φ is expected to have."""
        count, squares = shadows.count, shadows.squares
        if self.variance == "fixed":
            variance = pooled
        elif self.variance == "per_record":
            variance = np.where(count < LEAST_PER_RECORD, np.nan, squares / np.maximum(count - 1, 1))
        else:
            posterior = (PRIOR_MODELS * pooled + squares) / np.maximum(PRIOR_MODELS + count - 1, 1)
            variance = posterior * (1 + 1 / np.maximum(count, 1))
        return np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def _log_density(
        self, phi: Float[np.ndarray, "models records"], shadows: Moments, pooled: Float[np.ndarray, "targets 1"]
    ) -> Float[np.ndarray, "models records"]:
        """Log-density of a normal, up to a constant that IN and OUT share."""
        scale = self._scale(shadows, pooled)
        z = (phi - shadows.mean) / scale
        if self.variance != "shrunk":
            return -np.log(scale) - z**2 / 2
        freedom = PRIOR_MODELS + shadows.count - 1
        peak = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - np.log(freedom) / 2
        return peak - np.log(scale) - (freedom + 1) / 2 * np.log1p(z**2 / freedom)


def lira_scores(
    phi: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut = None,
) -> Float[np.ndarray, "models records"]:
    """Online LiRA on any signal that is higher for members; NaN where shadows on a side are missing.

    Args:
        phi: the signal, on an unbounded scale.
        membership: which model was trained on which record.
        others: row k marks the shadows of target k, as `View.others`.
        left_out: `View.left_out`.
    """
    return LiRA().ratio(phi, phi, membership, others, left_out)
