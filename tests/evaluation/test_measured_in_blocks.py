"""What is measured in blocks equals what is measured at once, and what a plain reference measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import LossThreshold, View
from palisade.attacks.parts import thresholds
from palisade.evaluation.measuring import exposure
from palisade.evaluation.measuring.leakage import (
    HINDSIGHT_METRICS,
    ROC_METRICS,
    accuracy_at_shadow_threshold,
    leakage,
    mean_roc,
    null_rows,
    tied_share,
)
from palisade.evaluation.statistics import bootstrap, chance, roc
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean, fleet_metrics
from palisade.evaluation.statistics.metrics import Called
from palisade.evaluation.statistics.roc import Ranking, Roc

Fleet = tuple[np.ndarray, View]
BLOCK_SIZES = (
    (bootstrap, "AT_ONCE"), (bootstrap, "RECORDS_AT_ONCE"), (bootstrap, "MAX_STORED_DRAWS"), (chance, "AT_ONCE"),
    (chance, "MODELS_AT_ONCE"), (exposure, "RECORDS_AT_ONCE"), (thresholds, "PAIRS_AT_ONCE"), (roc, "RUN_RANKS"),
    (roc, "RUNS_AT_ONCE"),
)  # fmt: skip
ROUNDING_ALONE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Scores, often tied and sometimes missing, of fleets with and without groups, persons and models not attacked."""
    models, records = draw(st.integers(2, 6)), draw(st.integers(20, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    persons = rng.integers(records // 2, size=records) if draw(st.booleans()) else None
    groups = np.arange(models) // 2 if draw(st.booleans()) and models > 2 else None
    member = rng.random((models, records)) < 0.5
    member = member if persons is None else member[:, persons]
    scores = rng.standard_normal((models, records)) + draw(st.sampled_from([0, 1, 4])) * member
    scores = np.round(scores, 1) if draw(st.booleans()) else scores
    if draw(st.booleans()):
        scores[rng.random(scores.shape) < draw(st.sampled_from([0.1, 0.7]))] = np.nan
    if draw(st.booleans()):
        scores[-1] = np.nan
    probabilities = np.full((models, records, 2), 0.5)
    labels = np.zeros(records, dtype=np.int64)
    return scores, View(probabilities=probabilities, labels=labels, membership=member, groups=groups, persons=persons)


def measured(scores: np.ndarray, seen: View) -> list[Any]:
    """All numbers of one attack, in a fixed order."""
    attack, own = LossThreshold(), Bootstrap(replicates=12, groups=seen.groups, persons=seen.persons)
    rows = [*leakage(attack, scores, seen, own), *null_rows({attack: scores}, seen, 0)]
    numbers = [number for row in rows for number in (row.value, row.low, row.high)]
    exposed = exposure.Exposure.of(scores, seen.membership, seen.labels, np.arange(seen.records))
    return [*numbers, *fleet_mean(scores, own), *exposed.models, *exposed.hits, *exposed.auc]


@settings(deadline=None, max_examples=30)
@given(fleets(), st.lists(st.integers(1, 50), min_size=len(BLOCK_SIZES), max_size=len(BLOCK_SIZES)))
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_blocks_of_any_size_give_what_all_at_once_gives(fleet: Fleet, sizes: list[int]) -> None:
    at_once = measured(*fleet)
    with pytest.MonkeyPatch.context() as patch:
        for (module, constant), size in zip(BLOCK_SIZES, sizes, strict=True):
            patch.setattr(module, constant, size)
        in_blocks = measured(*fleet)
    np.testing.assert_allclose(np.array(in_blocks, dtype=float), np.array(at_once, dtype=float), **ROUNDING_ALONE)


def naive(metric: Callable[[Roc], Any], scores: np.ndarray, member: np.ndarray, weights: np.ndarray) -> float:
    """A metric of one model on records that are copied as often as they were drawn."""
    chosen = np.repeat(np.arange(len(scores)), np.where(np.isnan(scores), 0, weights))
    if not 0 < member[chosen].sum() < len(chosen):
        return float("nan")
    falling = np.unique(scores[chosen])[::-1]
    false, true = (
        np.array([0, *((scores[chosen] >= t)[member[chosen] == side].sum() for t in falling)]) for side in (False, True)
    )
    scored = ~np.isnan(scores)
    counts = {"members": int((member & scored).sum()), "nonmembers": int((~member & scored).sum())}
    return float(metric(Roc(false.astype(float), true.astype(float), np.append(np.inf, falling), **counts)))


@settings(deadline=None, max_examples=15)
@given(fleets())
def test_metrics_and_intervals_are_those_of_copied_records(fleet: Fleet) -> None:
    scores, seen = fleet
    drawn = Bootstrap(replicates=6, groups=seen.groups, persons=seen.persons)
    metrics = fleet_metrics(scores, seen.membership, ROC_METRICS, drawn)
    rows = list(zip(scores, seen.membership, strict=True))
    for name, metric in ROC_METRICS.items():
        ones = np.ones(seen.records, dtype=int)
        own = np.array([naive(metric, *row, ones) for row in rows])
        np.testing.assert_allclose(metrics.per_model[name], own, **ROUNDING_ALONE)
        replicated = []
        for of_models, of_records in drawn.weights(*scores.shape):
            values = np.array([naive(metric, *row, of_records) for row in rows])
            counted = of_models * ~np.isnan(values)
            replicated.append(counted @ np.nan_to_num(values) / counted.sum() if counted.any() else np.nan)
        estimate = metrics.estimates[name]
        if np.isnan(replicated).all():
            assert np.isnan(estimate[1:]).all()
        elif (ends := np.nanquantile(replicated, [0.025, 0.975]))[0] != ends[1]:
            np.testing.assert_allclose(estimate[1:], ends, **ROUNDING_ALONE)
    once = fleet_metrics(scores, seen.membership, ROC_METRICS, drawn, HINDSIGHT_METRICS).estimates
    for name, estimate in metrics.estimates.items():
        expected = (estimate.value, np.nan, np.nan) if name in HINDSIGHT_METRICS else estimate
        np.testing.assert_array_equal(once[name], expected)


@settings(deadline=None, max_examples=30)
@given(fleets())
def test_curves_ties_and_exposure_are_those_of_single_comparisons(fleet: Fleet) -> None:
    scores, seen = fleet
    attacked = ~np.isnan(scores).all(axis=1)
    rows = [row for row, target in zip(zip(scores, seen.membership, strict=True), attacked, strict=True) if target]
    rocs = [Ranking(*row).roc() for row in rows if Ranking(*row).complete]
    if len(rocs) == len(rows):
        fprs, tprs = mean_roc(scores, seen.membership)
        expected = np.mean([[each.tpr_at(min(fpr, 1.0)) for fpr in fprs] for each in rocs], axis=0)
        np.testing.assert_allclose(tprs, expected, **ROUNDING_ALONE)
        beyond = [(np.diff(each.fpr), np.searchsorted(each.fpr[1:], 0.1, side="right")) for each in rocs]
        assert tied_share(scores, seen.membership, 0.1) == max(jumps[first:][:1].sum() for jumps, first in beyond)
    exposed = exposure.Exposure.of(scores, seen.membership, seen.labels, np.arange(seen.records))
    for record, auc in enumerate(exposed.auc):
        inside, outside = (
            scores[side & ~np.isnan(scores[:, record]), record]
            for side in (seen.membership[:, record], ~seen.membership[:, record])
        )
        pairs = inside[:, None] - outside
        np.testing.assert_allclose(auc, (np.sign(pairs) / 2 + 0.5).mean() if pairs.size else np.nan, **ROUNDING_ALONE)


@settings(deadline=None, max_examples=30)
@given(fleets())
def test_accuracy_at_the_thresholds_of_shadows_is_that_of_each_model(fleet: Fleet) -> None:
    scores, seen = fleet
    learnt = thresholds.shadow_thresholds(scores, seen.membership, seen.others)
    own = [
        Called.at(row[scored], members[scored], threshold).balanced_accuracy().value
        for row, members, threshold in zip(scores, seen.membership, learnt, strict=True)
        if (scored := ~np.isnan(row)).any()
        and not np.isnan(threshold)
        and 0 < members[scored].sum() < scored.sum()
    ]  # fmt: skip
    if len(own) == (~np.isnan(scores).all(axis=1)).sum():
        value = accuracy_at_shadow_threshold(scores, seen, Bootstrap(replicates=2)).value
        np.testing.assert_allclose(value, np.mean(own), **ROUNDING_ALONE)


@settings(deadline=None, max_examples=40)
@given(fleets(), st.sampled_from([1, 2, 7, 64]), st.booleans())
def test_thresholds_are_the_first_of_the_best_whatever_is_skipped(fleet: Fleet, at_once: int, lacking: bool) -> None:
    scores, seen = fleet
    rng = np.random.default_rng(0)
    left_out = rng.integers(-1, len(scores), size=scores.shape).astype(np.int32) if lacking else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "PAIRS_AT_ONCE", at_once)
        learnt = thresholds.shadow_thresholds(scores, seen.membership, seen.others, left_out)
    for target, threshold in enumerate(learnt):
        pool = seen.others[target][:, None] & ~np.isnan(scores)
        if left_out is not None:
            pool &= np.arange(len(scores))[:, None] != left_out[target]
        values, inside = scores[pool], seen.membership[pool]
        members, nonmembers = int(inside.sum()), int((~inside).sum())
        if members == 0 or nonmembers == 0:
            assert np.isnan(threshold)
            continue
        falling = np.unique(values)[::-1]
        gains = [
            nonmembers * int((values >= t)[inside].sum()) - members * int((values >= t)[~inside].sum()) for t in falling
        ]
        assert threshold == falling[np.argmax(gains)]


def test_many_pairs_are_learnt_on_at_evenly_spaced_records(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    member = rng.random((4, 100)) < 0.5
    scores, others = rng.standard_normal((4, 100)) + member, ~np.eye(4, dtype=bool)
    spaced = thresholds.shadow_thresholds(scores[:, ::3], member[:, ::3], others)
    monkeypatch.setattr(thresholds, "MAX_PAIRS", 150)
    np.testing.assert_array_equal(thresholds.shadow_thresholds(scores, member, others), spaced)
