"""Were these records used? What is found about each of them, and about all together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks import Attack, View
from palisade.evaluation.audits.answered_records import order_of
from palisade.evaluation.audits.audited import has_several, lacking, measures, units
from palisade.evaluation.audits.blind_baseline import blind_scores
from palisade.evaluation.audits.saved_records import LEAST
from palisade.evaluation.audits.used_records import FileTest, benjamini_hochberg, holm, of_all, p_values
from palisade.evaluation.audits.used_share import UsedShare, used_share
from palisade.evaluation.flags import Flag
from palisade.evaluation.format import number
from palisade.evaluation.result import AUC


@dataclass(frozen=True, kw_only=True, eq=False)
class AskedRecords:
    """Result about records in question.

    Args:
        attack: what scored them, fixed beforehand.
        needs: what it needs, in words.
        labels: the true classes.
        scores: higher = more likely used.
        p: p-values, one for each record.
        nonmembers: how many records these are taken against.
        all_together: the test of all records.
        used: how many of the records were used, altogether.
        alpha: up to which p-values name a record.
        flags: why not to believe it.
    """

    attack: str
    needs: str
    labels: Int[np.ndarray, "records"]
    scores: Float[np.ndarray, "records"]
    p: Float[np.ndarray, "records"]
    nonmembers: int
    all_together: FileTest
    used: UsedShare
    alpha: float
    flags: tuple[Flag, ...]

    @property
    def benjamini_hochberg(self) -> Float[np.ndarray, "records"]:
        """p-values adjusted so that naming those up to α bounds the false discovery rate by α."""
        return benjamini_hochberg(self.p)

    @property
    def holm(self) -> Float[np.ndarray, "records"]:
        """p-values adjusted so that naming those up to α accuses anybody falsely with probability at most α."""
        return holm(self.p)

    def sentences(self) -> list[str]:
        """The results in plain words."""
        count, p = len(self.p), self.all_together.p
        bh, strict = (int((adjusted <= self.alpha).sum()) for adjusted in (self.benjamini_hochberg, self.holm))
        verdict = "more than chance explains" if p <= self.alpha else "no more than chance explains"
        return [
            f"All {count:,} records together: p = {_p(p)} ({self.all_together.how}). The model fits them better than"
            f" the {self.nonmembers:,} non-members by {verdict}.",
            f"One by one: {bh:,} of {count:,} are named (Benjamini–Hochberg: of those named, at most"
            f" {100 * self.alpha:g} % are expected to be wrong); {strict:,} withstand the stricter correction (Holm:"
            f" with {100 * (1 - self.alpha):g} % confidence, not one of them is wrong).",
            self._how_much(),
        ]

    def _how_much(self) -> str:
        used, confidence = self.used, f"with {100 * (1 - self.alpha):g} % confidence"
        if not used.known:
            return (
                f"How much was used: {confidence}, at least {100 * used.low:.1f} % of the records. Nothing bounds it"
                " from above: how many used records look used is not known. members=<file>, records known to be used"
                " and otherwise alike, give an estimate."
            )
        between = f"between {100 * used.low:.1f} and {100 * used.high:.1f} %"
        if used.value is None:
            return (
                f"How much was used: {between} {confidence}; known members do not look used, so there is no estimate."
            )
        return (
            f"How much was used: an estimated {100 * used.value:.1f} % of the records, {between} {confidence}"
            f" (debiased by {used.known:,} known members; Tong et al. 2025)."
        )


def ask_records(view: View, attack: Attack, alpha: float, known: int = 0) -> AskedRecords:
    """Tests records against non-members.

    Args:
        view: of one model, by `view_of`; what counts as members are the records in question, then those known to be
            used.
        attack: that scores them, fixed beforehand: the best of several would need a correction.
        alpha: how often a record that was not used may be named.
        known: how many of the last members are known to be used, and not in question.

    Raises:
        ValueError: if the attack cannot run, or would be told which records are in question.
    """
    if not (isinstance(alpha, int | float) and 0 < alpha < 0.5):
        raise ValueError(f"alpha={alpha} is no error rate; choose above 0 and below 0.5, such as 0.05")
    if attack.threat.known_members:
        raise ValueError(
            f"threat.audit={attack.name} is told which records are in question; choose such as LossThreshold"
        )
    if (reason := lacking(attack, view)) is not None:
        raise ValueError(f"threat.audit={attack.name} {reason}, or choose another attack")
    place, scores = order_of(view.records), attack.score(view)[0]
    count = int(view.membership[0].sum()) - known
    asked, others = place < count, ~view.membership[0]
    as_in_file = np.flatnonzero(asked)[np.argsort(place[asked])]
    if np.isnan(scores).any():
        raise ValueError(f"threat.audit={attack.name} scores only some of the records; choose another attack")
    p = p_values(scores[as_in_file], scores[others])
    return AskedRecords(
        attack=attack.name,
        needs=attack.threat.describe(),
        labels=view.labels[as_in_file],
        scores=scores[as_in_file],
        p=p,
        nonmembers=int(others.sum()),
        all_together=of_all(scores[asked], scores[others]),
        used=used_share(scores[asked], scores[others], scores[~asked & ~others] if known else None, alpha=alpha),
        alpha=alpha,
        flags=tuple(_flags(view, asked, alpha)),
    )


def _flags(view: View, asked: Bool[np.ndarray, "records"], alpha: float) -> list[Flag]:
    compared = asked | ~view.membership[0]
    count, nonmembers = int(asked.sum()), int((~view.membership[0]).sum())
    told = []
    if min(units(view.persons, asked), units(view.persons, ~view.membership[0])) >= LEAST:
        features = None if view.features is None else view.features[compared]
        persons = None if view.persons is None else view.persons[compared]
        scores = blind_scores(features, view.labels[compared], asked[compared], persons)
        blind, *_ = measures(scores, asked[compared], persons)
        assert blind.metric == AUC
        if blind.low is not None and blind.low > 0.5:
            told.append(
                Flag(
                    "different records",
                    "A classifier that never asks the model tells the records in question from the non-members, with an"
                    f" AUC of {number(blind, interval=True)}; ½ is guessing. The p-values do not"
                    " hold then: take non-members from the same source and time.",
                )
            )
    if view.features is None:
        told.append(
            Flag(
                "records unknown",
                "The files hold answers only, so that nobody can check whether the records in question and the"
                " non-members are alike but for their use. The p-values hold only if they are.",
            )
        )
    if has_several(view.persons):
        told.append(
            Flag(
                "several records a person",
                "The p-values take records as independent, and those of one person are not: the test of all records"
                " and the corrections are too sure. Ask about one record a person.",
            )
        )
    if 1 / (nonmembers + 1) > alpha / count:
        told.append(
            Flag(
                "too few non-members",
                f"No p-value can be below 1/{nonmembers + 1}, which is too much for Holm's correction of {count:,}"
                f" records at {100 * alpha:g} %. It takes {int(np.ceil(count / alpha)) - 1:,} non-members.",
            )
        )
    return told


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else f"{p:.1e}"
