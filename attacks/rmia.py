"""RMIA: does the target favor the record more than it favors records that it cannot have been trained on?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.expected_confidence import expected_offline, expected_online, log_ratio, mean_confidence
from palisade.attacks.parts.leave_one_out import LeftOut
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Positive, remedy

OFFLINE_A_VALUES = np.arange(11) / 10  # values of a that are tried
LOW_FPR = 0.02  # up to which members are counted to choose a: what a low-FPR attack lives on
LEAST_NONMEMBERS = 10  # that stand for it at least; of fewer, chance chooses
UNTUNED_OFFLINE_A = 0.3  # a where too few shadows are left to try any; the one that Privacy Meter falls back on
RECORDS_TO_TUNE = 10_000  # enough to compare the candidates; more only take time
MIN_PROBABILITY = 1e-12  # what an estimated probability is clipped at


@dataclass(frozen=True, kw_only=True)
class RMIA(Attack):
    """The relative membership inference attack (Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference").

    The ratio r(x) = p(x; θ)/p̄(x) compares the target's confidence with the one expected of a model; the score is the
    share of population records z with r(x)/r(z) > γ. Being relative to non-members of the very target, the score is a
    false positive rate that needs no further calibration, if no population record is a member. Scores are multiples of
    one over the size of the population; ties are broken by log r(x), within a quarter of that step.

    Online: p̄ = ½(mean_IN + mean_OUT). Offline, and always for z: p̄ = ½[(1 + a) mean_OUT + 1 − a]. If the only shadow
    was trained on x, its p gives the missing p_OUT as (p + a − 1)/a, which a = 0 leaves undefined.

    Of a text, p is that of a token on the geometric mean, with T = γ = 1 whatever is set: no other T is there.

    Args:
        online: whether shadows that trained on the record are used.
        temperature: of the softmax, above 0. With γ fixed before labels are seen; 2 and 2 were published for Purchase.
        gamma: γ, how much more the record must be favored, at least 1.
        offline_a: a in [0, 1]. None tunes it for each target by attacking another model with the remaining ones: most
            members above the top 2 % of non-members.

    Raises:
        ValueError: if a setting is out of range.
    """

    online: bool = True
    temperature: Positive = 2.0
    gamma: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    offline_a: Annotated[float, Field(ge=0, le=1), remedy("choose e.g. 0.3, or null to tune it")] | None = None

    idea = "Asks whether the model favors the record more than it favors records that it has surely never seen."

    @property
    def name(self) -> str:
        """`rmia` with IN and OUT shadows, `rmia_offline` with OUT shadows alone."""
        return "rmia" if self.online else "rmia_offline"

    @property
    def threat(self) -> ThreatModel:
        """Scores of shadows, IN and OUT or OUT alone, on the audited records and on the population."""
        return ThreatModel(
            outputs="top-k",
            shadows="online" if self.online else "offline",
            population=True,
            temperature=self.temperature,
        )

    def suited(self, view: View) -> Self:
        """With T = γ = 1 on texts."""
        return self if view.tokens is None else replace(self, temperature=1.0, gamma=1.0)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.population is not None
        log_p, log_p_z = (seen.log_confidence(self.temperature)[:, :, 0] for seen in (view, view.population))
        a = np.full((view.models, 1), self.offline_a)
        if self.offline_a is None:
            a = _tuned(log_p, view.membership, view.others, view.left_out)
        everywhere_out = np.ones((view.models, 1), dtype=bool)

        def ratio_z(block: slice) -> Float[np.ndarray, "models block"]:
            outside = mean_confidence(np.exp(log_p_z[:, block]), everywhere_out, view.others)
            return log_ratio(log_p_z[:, block], expected_offline(outside, a))

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            ratios = log_ratio(log_p[:, block], self._expected(view, np.exp(log_p[:, block]), block, a))
            return np.stack([self._share(*pair) for pair in zip(ratios, ordered_z, strict=True)])

        ordered_z = in_blocks(log_p_z.shape, view.population.blocks(), ratio_z)
        ordered_z.sort(axis=1)
        return in_blocks(log_p.shape, view.blocks(), score)

    def _expected(
        self, view: View, p: Float[np.ndarray, "models block"], block: slice, a: Float[np.ndarray, "models 1"]
    ) -> Float[np.ndarray, "models block"]:
        shadows = view.membership[:, block], view.others, view.left_out_of(block)
        return expected_online(p, *shadows) if self.online else expected_offline(_outside(p, *shadows, a), a)

    def _share(
        self, log_ratios: Float[np.ndarray, "records"], population: Float[np.ndarray, "population"]
    ) -> Float[np.ndarray, "records"]:
        """The share of the population, sorted, that the target favors less by more than γ; ties follow the ratio."""
        below = np.searchsorted(population, log_ratios - np.log(self.gamma), side="left")
        return (below + np.arctan(log_ratios) / (2 * np.pi)) / len(population)


def _outside(
    p: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut,
    a: Float[np.ndarray, "models 1"],
) -> Float[np.ndarray, "models records"]:
    """mean_OUT; where the only shadow there is was IN, what its p says of p_OUT; else NaN."""
    outside = mean_confidence(p, ~membership, others, left_out)
    single = others.sum(axis=1) == 1
    if single.any():
        shadow = others[single].argmax(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverted = np.where(
                a[single] > 0, np.clip((p[shadow] + a[single] - 1) / a[single], MIN_PROBABILITY, 1), np.nan
            )
        outside[single] = np.where(membership[shadow], inverted, outside[single])
    return outside


def _tuned(
    log_p: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "models models"],
    left_out: LeftOut,
) -> Float[np.ndarray, "models 1"]:
    """For each target the a with the best partial AUC of an attack on its next shadow by the shadows that both have.

    Partial up to 2 % FPR: the whole AUC is decided at larger rates, which no attack would use, and asks for
    a smaller a.

    Neither the target's outputs nor its membership play a part.
    """
    tried = slice(None, None, max(1, log_p.shape[1] // RECORDS_TO_TUNE))
    log_p, membership = log_p[:, tried], membership[:, tried]
    left_out = None if left_out is None else left_out[:, tried]
    models = len(others)
    following = (np.arange(models)[:, None] + np.arange(1, models)) % models
    stand_ins = following[np.arange(models), np.take_along_axis(others, following, axis=1).argmax(axis=1)]
    outside = mean_confidence(np.exp(log_p), ~membership, others & others[stand_ins], left_out)
    best = np.full((models, 1), UNTUNED_OFFLINE_A)
    for target, stand_in in enumerate(stand_ins):
        scored = ~np.isnan(outside[target])
        if left_out is not None:
            scored &= left_out[target] != stand_in
        members = membership[stand_in, scored]
        if 0 < members.sum() < len(members):
            ratios = log_ratio(
                log_p[stand_in, scored], expected_offline(outside[target, scored], OFFLINE_A_VALUES[:, None])
            )
            best[target] = OFFLINE_A_VALUES[_members_above(ratios, members).argmax()]
    return best


def _members_above(
    ratios: Float[np.ndarray, "candidates records"], members: Bool[np.ndarray, "records"]
) -> Float[np.ndarray, "candidates"]:
    """Number of members above each of the highest non-members, summed over these, ties half: a partial AUC."""
    nonmembers = int((~members).sum())
    highest = min(nonmembers, max(LEAST_NONMEMBERS, int(np.ceil(LOW_FPR * nonmembers))))
    inside, outside = np.sort(ratios[:, members], axis=1), np.sort(ratios[:, ~members], axis=1)[:, -highest:]
    below = [
        np.searchsorted(own, other, side="left") + np.searchsorted(own, other, side="right")
        for own, other in zip(inside, outside, strict=True)
    ]
    return members.sum() * highest - np.sum(below, axis=1) / 2
