"""Test of records: were they used, one by one, all together, and how many of them?"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, mannwhitneyu, permutation_test, rankdata

from palisade.attacks import (
    Attack,
    BaseDifference,
    ErrorZone,
    FilterOracle,
    LossThreshold,
    MinK,
    MinKPlus,
    Neighbors,
    Sharpness,
    View,
    Windows,
    ZlibRatio,
)
from palisade.evaluation.flags import Flag
from palisade.evaluation.format import number, percent
from palisade.evaluation.measuring.baselines import blind_test, distinct_texts
from palisade.evaluation.measuring.one_model import accuracies, has_several, measures, units
from palisade.evaluation.result import DIFFERENCE_ALPHA, NONMEMBER_GROUP, Row
from palisade.evaluation.statistics.dataset_inference import weighed
from palisade.evaluation.statistics.metrics import upper_limit
from palisade.evaluation.subjects.answers import order_of
from palisade.evaluation.subjects.saved_records import MIN_RECORDS_PER_SIDE
from palisade.evaluation.subjects.subject import lacking
from palisade.fields import as_written

RANK_SUM_PERMUTATIONS = 9_999
DIFFERENT_RECORDS = "different records"
"""The name of a flag: both sides differ by themselves."""
NO_VERDICT = (
    "No verdict: a classifier that never asks the model tells the documents in question from the others, by their words"
    " alone. Whatever the model does better on them may be that difference, and not use. Take documents of the same"
    " author, kind and time that were not published."
)
LEAST_TO_HALVE = 2 * MIN_RECORDS_PER_SIDE
"""Documents, or persons, a side from which on half of them are weighed on."""
TEXT_SCORES: tuple[Attack, ...] = (
    LossThreshold(), ZlibRatio(), MinK(share=0.05), MinK(), MinK(share=0.5), MinKPlus(), MinKPlus(share=0.5),
    Sharpness(), BaseDifference(), ErrorZone(), Windows(), Neighbors(), FilterOracle(),
)  # fmt: skip
"""Scores of documents that need no shadow, which dataset inference weighs."""
PERMUTED_AT_ONCE = 500
"""Permutations held in memory together."""
MAX_PERMUTED_RECORDS = 50
"""Most records on a side for which the rank sum is permuted; beyond, it is normal."""

Values = Float[np.ndarray, "records"]
THRESHOLD_FPR = 0.05
"""False positive rate of the threshold where no member is known to choose it by."""


class FileTest(NamedTuple):
    """A test of all records together.

    Args:
        p: its p-value.
        how: in a few words.
    """

    p: float
    how: str


def p_values(scores: Values, nonmembers: Float[np.ndarray, "nonmembers"]) -> Values:
    """(1 + non-members that score at least as high) / (non-members + 1), a conformal p-value for each record.

    Of records that were not used and are otherwise like the non-members, at most a share p gets a value up to p,
    whatever the model and the score. Ties count against the accusation. (Bates et al. 2023, "Testing for Outliers with
    Conformal p-values", section 1.)

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of records that were not used.
    """
    higher = len(nonmembers) - np.searchsorted(np.sort(nonmembers), scores, side="left")
    return (1 + higher) / (len(nonmembers) + 1)


def benjamini_hochberg(p: Values) -> Values:
    """Adjusted p-values: of the records with a value up to α, a share of at most α is expected to be named wrongly.

    It holds for conformal p-values though all of them share the non-members (Bates et al. 2023, theorem 2).
    """
    adjusted: Values = false_discovery_control(p, method="bh")
    return adjusted


def holm(p: Values) -> Values:
    """Adjusted p-values: with probability 1 − α, no record with a value up to α is named wrongly (Holm 1979)."""
    rising = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(p[rising] * np.arange(len(p), 0, -1)), 1.0)
    adjusted = np.empty_like(steps)
    adjusted[rising] = steps
    return adjusted


def of_all(scores: Values, nonmembers: Float[np.ndarray, "nonmembers"], seed: int = 0) -> FileTest:
    """One p-value for all records: do they rank above the non-members (Wilcoxon 1945; Mann & Whitney 1947)?

    Where all records were used, each a little better fitted than it would be otherwise, this sees what no single record
    shows (Maini, Yaghini & Papernot 2021, "Dataset Inference"). It takes the records as exchangeable one by one: many
    rows of one person make it too sure.

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of records that were not used.
        seed: of the permutations, where there are too many to try all.
    """
    m, n = len(scores), len(nonmembers)
    if m == 1:
        return FileTest(float(p_values(scores, nonmembers)[0]), "rank sum, exact")
    if min(m, n) > MAX_PERMUTED_RECORDS:
        return FileTest(float(mannwhitneyu(scores, nonmembers, alternative="greater").pvalue), "rank sum, normal")
    ranks = rankdata(np.concatenate([scores, nonmembers]))
    p = permutation_test(
        (ranks[:m], ranks[m:]), _rank_sum, vectorized=True, n_resamples=RANK_SUM_PERMUTATIONS, batch=PERMUTED_AT_ONCE,
        alternative="greater", rng=np.random.default_rng(seed),
    ).pvalue  # fmt: skip
    exact = comb(m + n, m) <= RANK_SUM_PERMUTATIONS
    return FileTest(float(p), "rank sum, exact" if exact else f"rank sum, {RANK_SUM_PERMUTATIONS:,} permutations")


def _rank_sum(own: Float[np.ndarray, "... records"], _: Float[np.ndarray, "... nonmembers"], axis: int) -> np.ndarray:
    return np.asarray(own.sum(axis))


class UsedShare(NamedTuple):
    """Share of records that were used.

    Args:
        value: the estimate; None where nothing says how many used records the threshold finds.
        low: lower end of the interval.
        high: its upper end; 1 where there is none.
        known: number of members that it was debiased by; 0: none, so that only the lower end is known.
    """

    value: float | None
    low: float
    high: float
    known: int


def used_share(
    scores: Float[np.ndarray, "records"],
    nonmembers: Float[np.ndarray, "nonmembers"],
    members: Float[np.ndarray, "members"] | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> UsedShare:
    """Estimate (share accused − FPR)/(TPR − FPR) of the share, which undoes both errors of an accusation.

    Tong, Ye, Zarifzadeh & Shokri 2025, "How Much of My Dataset Did You Use? Quantitative Data Usage Inference in
    Machine Learning", section 4, with one threshold for all records. It is chosen on a random half of the known
    records, by TPR − FPR; FPR and TPR are counted on the other half. The interval holds whatever the scores, if known
    and questioned records are alike: Clopper–Pearson limits of the three shares at α/3 each, combined.

    Without known members TPR is not known. As it is at most 1, at least (share above − FPR)/(1 − FPR) were used; no
    share above that can be ruled out, since a model may hide any number of its records.

    Args:
        scores: of the records in question; higher = more likely used.
        nonmembers: scores of at least 2 records that were not used.
        members: scores of at least 2 records that were used and are otherwise like those in question.
        alpha: one minus the confidence level.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    tuned_on, others = np.array_split(rng.permutation(nonmembers), 2)
    if members is None:
        threshold = np.sort(tuned_on)[-max(1, int(THRESHOLD_FPR * len(tuned_on)))]
        above, false = (int((side > threshold).sum()) for side in (scores, others))
        fpr = float(upper_limit(false, len(others), alpha / 2))
        fewest = 1 - float(upper_limit(len(scores) - above, len(scores), alpha / 2))
        return UsedShare(None, _share(fewest, fpr, 1.0, otherwise=0.0), 1.0, 0)
    known, held_out = np.array_split(rng.permutation(members), 2)
    candidates = np.unique(np.concatenate([known, tuned_on]))
    gain = [(known >= level).mean() - (tuned_on >= level).mean() for level in candidates]
    threshold = candidates[int(np.argmax(gain))]
    sides = (scores, others, held_out)
    counts = [int((side >= threshold).sum()) for side in sides]
    low = [1 - float(upper_limit(len(s) - n, len(s), alpha / 6)) for s, n in zip(sides, counts, strict=True)]
    high = [float(upper_limit(n, len(s), alpha / 6)) for s, n in zip(sides, counts, strict=True)]
    shares = [n / len(s) for s, n in zip(sides, counts, strict=True)]
    value = _share(*shares, otherwise=0.0) if shares[2] > shares[1] else None
    least, most = _share(low[0], high[1], high[2], otherwise=0.0), _share(high[0], low[1], low[2], otherwise=1.0)
    return UsedShare(value, least, most, len(members))


def _share(above: float, fpr: float, tpr: float, *, otherwise: float) -> float:
    """Share between 0 and 1; `otherwise` where the TPR is no larger than the FPR."""
    return float(np.clip((above - fpr) / (tpr - fpr), 0.0, 1.0)) if tpr > fpr else otherwise


@dataclass(frozen=True, kw_only=True, eq=False)
class AskedRecords:
    """Result about records in question.

    Args:
        attack: what scored them, fixed beforehand.
        needs: what it needs, in words.
        idea: its way in a layman's words.
        labels: the true classes.
        scores: higher = more likely used.
        p: p-values, one for each record.
        nonmembers: how many records these are taken against.
        all_together: the test of all records.
        used: how many of the records were used, altogether.
        alpha: up to which p-values name a record.
        accuracy: of the model on the records in question, and on the non-members.
        largest_class: share of the largest class on both sides.
        flags: why not to believe it.
        dataset: of texts, the test of all by many scores, weighed on one half; None: too few, or no texts.
        texts: whether the records are texts, asked of a language model.
    """

    attack: str
    needs: str
    idea: str
    labels: Int[np.ndarray, "records"]
    scores: Float[np.ndarray, "records"]
    p: Float[np.ndarray, "records"]
    nonmembers: int
    all_together: FileTest
    used: UsedShare
    alpha: float
    accuracy: tuple[Row, Row]
    largest_class: tuple[Row, Row]
    flags: tuple[Flag, ...]
    dataset: FileTest | None = None
    texts: bool = False

    @property
    def no_verdict(self) -> bool:
        """Texts that differ by themselves from those of the other side: nothing here says that they were used."""
        return self.texts and any(flag.name == DIFFERENT_RECORDS for flag in self.flags)

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
        if self.no_verdict:
            return [NO_VERDICT]
        return [
            f"All {count:,} records together: p = {_p(p)} ({self.all_together.how}). The model fits them better than"
            f" the {self.nonmembers:,} non-members by {verdict}.",
            f"One by one: {bh:,} of {count:,} are named (Benjamini–Hochberg: of those named, at most"
            f" {100 * self.alpha:g} % are expected to be wrong); {strict:,} withstand the stricter correction (Holm:"
            f" with {100 * (1 - self.alpha):g} % confidence, not one of them is wrong).",
            *self._of_dataset(),
            self._how_much(),
            *self._how_right(),
        ]

    def _of_dataset(self) -> list[str]:
        if self.dataset is None:
            return []
        verdict = "more than chance explains" if self.dataset.p <= self.alpha else "no more than chance explains"
        return [
            f"Dataset inference: p = {_p(self.dataset.p)} ({self.dataset.how}). Many scores, weighed on a random half"
            f" of the documents, tell the other half from documents that were not used by {verdict}."
        ]

    def _how_right(self) -> list[str]:
        if self.texts:
            if self.accuracy[0].value is None:
                return []
            return [
                f"The model foretells {percent(self.accuracy[0], interval=True)} of the tokens of the documents in"
                f" question, and {percent(self.accuracy[1], interval=True)} of those of the others."
            ]
        return [
            f"The model is right about {percent(self.accuracy[0], interval=True)} of the records in question, and about"
            f" {percent(self.accuracy[1], interval=True)} of the non-members; the largest class has"
            f" {percent(self.largest_class[0])} and {percent(self.largest_class[1])} of them.",
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


def infer_dataset(view: View, asked: Bool[np.ndarray, "records"], others: Bool[np.ndarray, "records"]) -> FileTest:
    """Test of all documents by the attacks on texts that run on this view.

    Args:
        view: of one language model.
        asked: documents in question.
        others: documents that were not used.
    """
    runnable = [attack for attack in TEXT_SCORES if attack.missing(view) is None]
    compared = asked | others
    features = np.stack([attack.score(view)[0][compared] for attack in runnable], axis=1)
    persons = None if view.persons is None else view.persons[compared]
    halves = weighed(features, asked[compared], persons)
    test = of_all(halves.scores, halves.nonmembers)
    return FileTest(test.p, f"{len(runnable)} scores, {test.how}")


def ask_records(view: View, attack: Attack, alpha: float, known: int = 0) -> AskedRecords:
    """Tests records against non-members.

    Args:
        view: of one model, by `view_of`; what counts as members are the records in question, then those known to be
            used.
        attack: that scores them, fixed beforehand: the best of several would need a correction.
        alpha: how often a record that was not used may be named.
        known: how many of the last members are known to be used, and not in question.

    Raises:
        ValueError: if the attack cannot run, or would know which records are in question.
    """
    if not (isinstance(alpha, int | float) and 0 < alpha < 0.5):
        raise ValueError(f"alpha={as_written(alpha)}: expected an error rate > 0 and < 0.5; choose e.g. 0.05")
    if attack.threat.known_members:
        raise ValueError(
            f"threat.audit={attack.name}: expected an attack that knows no members; choose e.g. LossThreshold"
        )
    if (reason := lacking(attack, view)) is not None:
        raise ValueError(
            f"threat.audit={attack.name}: expected an attack that can run, and it {reason}, or choose another"
        )
    place, scores = order_of(view.records), attack.score(view)[0]
    count = int(view.membership[0].sum()) - known
    asked, others = place < count, ~view.membership[0]
    as_in_file = np.flatnonzero(asked)[np.argsort(place[asked])]
    if np.isnan(scores).any():
        raise ValueError(f"threat.audit={attack.name}: expected an attack that scores every record; choose another")
    p = p_values(scores[as_in_file], scores[others])
    dataset, first = None, distinct_texts(view)
    sides = asked & first, others & first
    if view.tokens is not None and min(units(view.persons, side) for side in sides) >= LEAST_TO_HALVE:
        dataset = infer_dataset(view, *sides)
    right, largest, right_outside, largest_outside = accuracies(view, {"records": asked, NONMEMBER_GROUP: others})
    return AskedRecords(
        attack=attack.name,
        needs=attack.threat.describe(),
        idea=attack.idea,
        labels=view.labels[as_in_file],
        scores=scores[as_in_file],
        p=p,
        nonmembers=int(others.sum()),
        all_together=of_all(*(scores[side] for side in sides)),
        used=used_share(scores[asked], scores[others], scores[~asked & ~others] if known else None, alpha=alpha),
        alpha=alpha,
        accuracy=(right, right_outside),
        largest_class=(largest, largest_outside),
        flags=tuple(_flags(view, asked, alpha)),
        dataset=dataset,
        texts=view.tokens is not None,
    )


def _flags(view: View, asked: Bool[np.ndarray, "records"], alpha: float) -> list[Flag]:
    first = distinct_texts(view)
    compared, others = (asked | ~view.membership[0]) & first, ~view.membership[0] & first
    count, nonmembers = int(asked.sum()), int((~view.membership[0]).sum())
    cautions = []
    if min(units(view.persons, asked & first), units(view.persons, others)) >= MIN_RECORDS_PER_SIDE:
        features = None if view.features is None else view.features[compared]
        persons = None if view.persons is None else view.persons[compared]
        tested = blind_test(features, view.labels[compared], asked[compared], persons)
        blind = tested.widened(next(iter(measures(tested.scores, asked[compared], persons))))
        if tested.p <= DIFFERENCE_ALPHA:
            cautions.append(
                Flag(
                    DIFFERENT_RECORDS,
                    "A classifier that never asks the model tells the records in question from the non-members, with an"
                    f" AUC of {number(blind, interval=True)}; ½ is guessing, and random sides give so much with a"
                    f" probability of {tested.p:.2g} at most. The p-values do not hold then: take non-members from the"
                    " same source and time.",
                )
            )
    if view.features is None:
        cautions.append(
            Flag(
                "records unknown",
                "The files hold answers only, so that nobody can check whether the records in question and the"
                " non-members are alike but for their use. The p-values hold only if they are.",
            )
        )
    if has_several(view.persons):
        cautions.append(
            Flag(
                "several records a person",
                "The p-values take records as independent, and those of one person are not: the test of all records"
                " and the corrections are too sure. Ask about one record a person.",
            )
        )
    if 1 / (nonmembers + 1) > alpha / count:
        cautions.append(
            Flag(
                "too few non-members",
                f"No p-value can be below 1/{nonmembers + 1}, which is too much for Holm's correction of {count:,}"
                f" records at {100 * alpha:g} %. It takes {int(np.ceil(count / alpha)) - 1:,} non-members.",
            )
        )
    return cautions


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else f"{p:.1e}"
