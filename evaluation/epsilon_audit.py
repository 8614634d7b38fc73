"""Everything that bare scores of members and non-members say about one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from palisade.evaluation.format import number
from palisade.evaluation.statistics import epsilon
from palisade.evaluation.statistics.metrics import (
    Called,
    Estimate,
    Scores,
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    roc_points,
    tpr_estimate,
    upper_limit,
)
from palisade.targets.config import at_either_end

AUDIT_FPRS = (0.01, 0.001)
BOUND_ASSUMPTIONS = {
    "one run": "valid if each record was in with probability ½, independently",
    "f-DP, if the mechanism is Gaussian": "one run likewise",
    "GDP, if the mechanism is Gaussian": "indicative",
    "Clopper–Pearson": "indicative: the records of one model are no independent trials",
}
"""Assumptions of the bounds on ε by name, in the order of `Audit.bounds`."""
REVERSED_SCORES = (
    "Members score lower than the others. Higher must mean more likely a member: if the score is a loss, pass its"
    " negative; otherwise see whether the two sides are swapped"
)


class Guesses(NamedTuple):
    """Counts of a one-run audit, for its bounds.

    Args:
        canaries: records whose inclusion was drawn.
        guesses: of how many it is guessed.
        correct: how many guesses are right.
    """

    canaries: int
    guesses: int
    correct: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One-run audit of a model by an attack's scores; prints as a summary.

    Args:
        auc: with its interval, like all metrics.
        tpr: by FPR.
        balanced_accuracy: at the best threshold in hindsight.
        advantage: likewise.
        counts: of the one-run bounds.
        bounds: lower bounds on ε by method: `one_run`, `one_run_fdp`, `gdp`, `clopper_pearson`.
        ceilings: what a perfect attack would have proven with the same counts.
        delta: of the claim that the bounds are compared with.
        alpha: one minus the confidence level of every interval and bound.
    """

    auc: Estimate
    tpr: Mapping[float, Estimate]
    balanced_accuracy: Estimate
    advantage: Estimate
    counts: Guesses
    bounds: Mapping[str, float]
    ceilings: Mapping[str, float]
    delta: float
    alpha: float

    def to_json(self) -> dict[str, Any]:
        """The bounds with what they come from, as plain values."""
        levels, by_method = (
            {"delta": self.delta, "alpha": self.alpha},
            {"bounds": self.bounds, "ceilings": self.ceilings},
        )
        return {**levels, **self.counts._asdict(), **{name: dict(values) for name, values in by_method.items()}}

    def __str__(self) -> str:
        rates = {"AUC": self.auc, "balanced accuracy": self.balanced_accuracy, "advantage": self.advantage}
        rates |= {f"TPR at {100 * fpr:g} % FPR": estimate for fpr, estimate in self.tpr.items()}
        lines = [f"Membership inference on {self.counts.canaries} records, {100 * (1 - self.alpha):g} % confidence"]
        lines += [f"  {name:<20}{_interval(estimate)}" for name, estimate in rates.items()]
        lines.append(f"Lower bounds on ε at δ = {self.delta:g} (in brackets: what a perfect attack would show)")
        for (name, assumption), method in zip(BOUND_ASSUMPTIONS.items(), self.bounds, strict=True):
            bound, ceiling = _bound(self.bounds[method]), f"({_bound(self.ceilings[method])})"
            lines.append(f"  {name:<36}{bound:>7} {ceiling:>9}  {assumption}")
        lines.append(f"{self.counts.correct} of {self.counts.guesses} guesses about who was included are right.")
        if self.auc.high < 0.5:
            lines.append(f"{REVERSED_SCORES} (AUC {self.auc.value:.3f}).")
        return "\n".join([*lines, "A low bound proves nothing: a stronger attack may find more."])


def audit_scores(
    in_scores: Scores,
    out_scores: Scores,
    *,
    delta: float = 0.0,
    guesses: float = 0.1,
    alpha: float = 0.05,
    seed: int | None = None,
) -> Audit:
    """Metrics with intervals and lower bounds on ε of one model, from the scores of its members and non-members.

    The one-run bounds hold only if each record was included with probability ½, independently of all others: not for
    the train and test part of a fixed split. Clopper–Pearson and GDP use one threshold, chosen on a random half of the
    records and evaluated on the other half: the best in hindsight would find leakage in noise.

    Args:
        in_scores: of the records the model was trained on; higher = more likely a member.
        out_scores: of the others.
        delta: of the claim that the bounds are compared with, in [0, 1); a Gaussian shape shows nothing at 0.
        guesses: share of all records guessed to be members, and again non-members; fix it before looking.
        alpha: one minus the confidence level.
        seed: of the halves and of the order among equal scores. None draws it afresh: with a fixed one the scores, not
            the coins, would decide how many of many equal scores are guessed right.

    Raises:
        ValueError: if a side has fewer than 2 scores, a score is NaN, or an argument is out of range.
    """
    order = np.random.default_rng(seed).permutation(len(in_scores) + len(out_scores))
    scores = np.concatenate([in_scores, out_scores]).astype(np.float64)[order]
    return audit_records(scores, order < len(in_scores), delta=delta, guesses=guesses, alpha=alpha)


def audit_records(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    *,
    delta: float = 0.0,
    guesses: float = 0.1,
    alpha: float = 0.05,
    seed: int = 0,
) -> Audit:
    """Audit of records whose order does not depend on who is a member, so that a fixed seed may break ties."""
    in_scores, out_scores = scores[members], scores[~members]
    if min(len(in_scores), len(out_scores)) < 2:
        passed = f"in_scores={len(in_scores)}, out_scores={len(out_scores)}"
        raise ValueError(
            f"{passed}: expected at least 2 of each, as half of them set a threshold for the others; pass more"
        )
    called = held_out_calls(scores, members, delta=delta, alpha=alpha, seed=seed)
    counts = guess(scores, members, guesses, seed)
    perfect = called._replace(tp=called.members, fp=0), counts._replace(correct=counts.guesses)
    return Audit(
        auc=auc_estimate(scores, members, alpha=alpha),
        tpr={fpr: tpr_estimate(scores, members, fpr, alpha=alpha) for fpr in AUDIT_FPRS},
        balanced_accuracy=accuracy_estimate(scores, members, alpha=alpha),
        advantage=advantage_estimate(scores, members, alpha=alpha),
        counts=counts,
        bounds=_bounds(called, counts, delta, alpha),
        ceilings=_bounds(*perfect, delta, alpha),
        delta=delta,
        alpha=alpha,
    )


def guess(
    scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"], share: float, seed: int = 0
) -> Guesses:
    """Guesses that the highest scores are members and the lowest are not, and counts how often that is right.

    Equal scores are taken in a random order: any order that follows from how the records are stored may give their
    membership away.

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on.
        share: of all records, guessed at either end, in (0, 0.5].
        seed: of that order.

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"guesses={share}: expected a share > 0 and <= 0.5; choose e.g. 0.1")
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    rising = shuffled[np.argsort(scores[shuffled], kind="stable")]
    either = at_either_end(share, len(scores))
    bottom, top = rising[:either], rising[len(rising) - either :]
    return Guesses(len(scores), 2 * either, int(members[top].sum() + (~members[bottom]).sum()))


def held_out_calls(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    *,
    delta: float,
    alpha: float,
    seed: int,
) -> Called:
    """Calls on one half of the records, at the threshold that would prove the largest ε on the other half.

    Args:
        scores: higher = more likely a member.
        members: which records the model was trained on, at least two on both sides.
        delta: of the claim.
        alpha: one minus the confidence level.
        seed: of the halves.
    """
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    half = np.zeros(len(scores), dtype=bool)
    for side in (shuffled[members[shuffled]], shuffled[~members[shuffled]]):
        half[side[: len(side) // 2]] = True
    roc = roc_points(scores[half], members[half])
    fnr = upper_limit(roc.members - roc.true, roc.members, alpha / 2)
    fpr = upper_limit(roc.false, roc.nonmembers, alpha / 2)
    threshold = roc.thresholds[np.argmax(epsilon.epsilon_of_rates(fnr, fpr, delta))]
    return Called.at(scores[~half], members[~half], float(threshold))


def _bounds(called: Called, counts: Guesses, delta: float, alpha: float) -> dict[str, float]:
    return {
        "one_run": epsilon.one_run(*counts, delta, alpha),
        "one_run_fdp": epsilon.one_run_fdp(*counts, delta, alpha),
        "gdp": epsilon.gdp(*called, delta, alpha),
        "clopper_pearson": epsilon.clopper_pearson(*called, delta, alpha),
    }


def _interval(estimate: Estimate) -> str:
    return "too few records to tell" if np.isnan(estimate.value) else number(estimate, interval=True)


def _bound(bound: float) -> str:
    return "needs δ" if np.isinf(bound) else f"{bound:.2f}"
