"""Exposure of single records, against a naive double loop."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from referee_exposure import Population, misses
from referee_exposure import measured as measured_by_lira
from scipy.stats import binom, binomtest
from sklearn.metrics import roc_auc_score

from palisade.attacks import LiRA, LossThreshold, View
from palisade.data.origins import Origins
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.curves import SHARE_GRID, exposure
from palisade.evaluation.measuring.exposure import (
    ASSUMED_SPREAD,
    EXPOSURE_COLUMNS,
    Exposure,
    exposed_csv,
    over_dispersion,
    part_of,
)
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.metrics import roc_points


def fleet(seed: int, models: int = 12, records: int = 260, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose records differ in how exposed they are, and memberships."""
    rng = np.random.default_rng(seed)
    membership = rng.random((models, records)) < 0.5
    scores = rng.normal(size=(models, records)) + membership * rng.exponential(2, records)
    return (scores.round() if ties else scores), membership


def measured(scores: np.ndarray, membership: np.ndarray) -> Exposure:
    records = scores.shape[1]
    return Exposure.of(scores, membership, np.arange(records) % 3, np.arange(records) + 1000)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), ties=st.booleans(), missing=st.booleans())
def test_equals_a_double_loop(seed: int, ties: bool, missing: bool) -> None:
    scores, membership = fleet(seed, ties=ties)
    if missing:
        scores[np.random.default_rng(seed).random(scores.shape) < 0.1] = np.nan
    exposed = measured(scores, membership)
    hits, models = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for row, members in zip(scores, membership, strict=True):
        scored = ~np.isnan(row)
        outside = np.sort(row[scored & ~members])[::-1]
        # Ties move together: the threshold lies above the first non-member that may not be accused.
        allowed = int(0.01 * len(outside) + 1e-9)
        for record in np.flatnonzero(scored & members):
            models[record] += len(outside) >= 100
            hits[record] += len(outside) >= 100 and row[record] > outside[allowed]
    np.testing.assert_array_equal(exposed.models, models)
    np.testing.assert_array_equal(exposed.hits, hits)


def test_agrees_with_the_tpr_of_each_model() -> None:
    scores, membership = fleet(1)
    exposed = measured(scores, membership)
    tprs = [
        roc_points(row, members).tpr_at(0.01) * members.sum() for row, members in zip(scores, membership, strict=True)
    ]
    assert exposed.hits.sum() == pytest.approx(sum(tprs))


def test_intervals_and_aucs_are_those_of_the_libraries() -> None:
    scores, membership = fleet(2, ties=True)
    exposed = measured(scores, membership)
    for record in range(0, 260, 7):
        interval = binomtest(int(exposed.hits[record]), int(exposed.models[record])).proportion_ci(method="exact")
        assert (exposed.low[record], exposed.high[record]) == pytest.approx((interval.low, interval.high))
        assert exposed.auc[record] == pytest.approx(roc_auc_score(membership[:, record], scores[:, record]))


def test_intervals_cover_the_exposure_in_fresh_fleets() -> None:
    population = Population(seed=3, records=400)
    for models in (8, 32):
        truth = population.truth(models, fresh=480)
        exposed = [measured_by_lira(population.fleet(models)) for _ in range(3)]
        missed, total = np.sum([misses(one, truth) for one in exposed], axis=0)
        assert missed / total < 0.07
        assert all(1.2 < one.spread < 4 for one in exposed)


def test_halves_without_shared_shadows_are_independent() -> None:
    scores, membership = fleet(6, models=16, records=400)
    seen = View(labels=np.zeros(400, dtype=np.int64), logits=np.stack([scores, 0 * scores], -1), membership=membership)
    assert over_dispersion(LossThreshold(), scores, seen) < 1.2
    few = part_of(seen, slice(0, 6))
    assert over_dispersion(LossThreshold(), scores[:6], few) == ASSUMED_SPREAD


def test_a_part_of_a_fleet_holds_its_own_models() -> None:
    scores, membership = fleet(7, models=8)
    seen = View(
        labels=np.zeros(260, dtype=np.int64),
        logits=np.stack([scores, 0 * scores], -1),
        membership=membership,
        alignment=scores,
        groups=np.arange(8) // 2,
        query=lambda model, x: np.full((len(x), 2), model),
    )
    part = part_of(seen, slice(1, 8, 2))
    assert part.models == 4 and part.query is not None and part.alignment is not None and part.groups is not None
    np.testing.assert_array_equal(part.membership, membership[1::2])
    np.testing.assert_array_equal(part.alignment, scores[1::2])
    assert part.groups.tolist() == [0, 1, 2, 3]
    assert [part.query(model, np.zeros((1, 1)))[0, 0] for model in range(4)] == [1, 3, 5, 7]


def test_an_attack_that_no_half_admits_has_the_assumed_spread() -> None:
    scores, membership = fleet(8, models=8)
    seen = View(labels=np.zeros(260, dtype=np.int64), logits=np.stack([scores, 0 * scores], -1), membership=membership)
    assert over_dispersion(LiRA(variance="per_record"), np.full_like(scores, np.nan), seen) == ASSUMED_SPREAD


def test_infinite_scores_are_no_thresholds() -> None:
    scores, membership = fleet(3)
    scores[0, ~membership[0]] = np.inf
    scores[0, np.flatnonzero(membership[0])[:5]] = np.inf
    exposed = measured(scores[:1], membership[:1])
    assert exposed.hits.sum() == 0


def test_what_cannot_be_known_is_missing() -> None:
    scores, membership = fleet(4, models=3)
    membership[:, 0], membership[:, 1], scores[:, 2] = False, True, np.nan
    exposed = measured(scores, membership)
    assert exposed.models[[0, 2]].tolist() == [0, 0]
    assert np.isnan([*exposed.value[[0, 2]], *exposed.low[[0, 2]], *exposed.high[[0, 2]], *exposed.auc[:3]]).all()
    few = measured(scores[:, :80], membership[:, :80])
    assert (few.models == 0).all() and few.mostly_exposed == 0  # below 100 non-members 1 % cannot be resolved
    alone = measured(scores[:1], np.ones((1, 260), dtype=np.bool_))
    assert (alone.models == 0).all()


def test_the_most_exposed_come_first() -> None:
    exposed = Exposure(
        record=np.array([4, 5, 6, 7, 8, 9]),
        label=np.zeros(6, dtype=np.int64),
        models=np.array([1, 8, 8, 8, 0, 9]),
        hits=np.array([1, 8, 4, 4, 0, 0]),
        auc=np.array([1.0, 0.8, 0.7, 0.75, np.nan, 0.95]),
    )
    # Found in 1 of 1 models may be luck: its interval starts at 2.5 %, that of 4 of 8 at 16 %.
    assert exposed.record[exposed.order].tolist() == [5, 7, 6, 4, 9, 8]
    assert exposed.mostly_exposed == 2  # half is not more than half


def test_json_brings_it_back() -> None:
    scores, membership = fleet(5, models=3)
    exposed = measured(scores, membership)
    again = Exposure.from_json(json.loads(json.dumps(exposed.to_json(), allow_nan=False)))
    for name in ("record", "label", "models", "hits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(exposed, name))
    np.testing.assert_allclose(again.auc, exposed.auc, atol=1e-6)


def test_csv_holds_every_record_once_the_most_exposed_first(make_result: Callable[..., Result]) -> None:
    runs = [make_result(), make_result("l2", strength=0.1, separation=0.4)]
    lines = list(csv.DictReader(io.StringIO(exposed_csv(runs))))
    assert tuple(lines[0]) == EXPOSURE_COLUMNS and len(lines) == 2 * 1258
    values = [tuple(float(line[name] or -1) for name in ("low", "exposure", "auc")) for line in lines]
    assert values == sorted(values, reverse=True)
    assert len({(line["run"], line["record"]) for line in lines}) == len(lines)
    record = Exposure.from_json(runs[0].exposed)
    top = record.order[0]
    assert lines[0]["run"] == runs[0].run and lines[0]["record"] == str(record.record[top])
    assert lines[0]["class"] == str(record.label[top]) and lines[0]["models"] == str(record.models[top])
    named = Origins(persons=[f"p{k}" for k in range(1000)], lines=range(2, 1002))
    lines = list(csv.DictReader(io.StringIO(exposed_csv(runs, named))))
    known = [line for line in lines if int(line["record"]) < 1000]
    assert all((line["person"], line["line"]) == (f"p{line['record']}", str(int(line["record"]) + 2)) for line in known)
    assert {(line["person"], line["line"]) for line in lines if int(line["record"]) >= 1000} == {("", "")}
    assert exposed_csv([make_result(exposed={})]) == ",".join(EXPOSURE_COLUMNS) + "\n"


def line(axes: Axes, label: str) -> np.ndarray:
    (curve,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(curve.get_xydata())


def test_the_plot_counts_records_above_each_share(sweep: list[Result], canaries: list[Result]) -> None:
    (axes,) = exposure(Comparison([*sweep, *canaries])).axes
    for result in (sweep[-1], canaries[0]):
        exposed = Exposure.from_json(result.exposed)
        label = "undefended" if result.canary == "none" else "undefended with label_noise canaries"
        drawn = line(axes, label)
        for at in (50, 199, 200, 320, 399):
            counted = int((exposed.value >= SHARE_GRID[at] - 1e-9).sum())
            assert drawn[at, 1] == counted if counted else np.isnan(drawn[at, 1])
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == len(sweep) + len(canaries) + 1 and texts[-1] == "guessing"


def test_guessing_is_the_binomial_of_each_record(make_result: Callable[..., Result]) -> None:
    result = make_result()
    models = Exposure.from_json(result.exposed).models
    (axes,) = exposure(Comparison([result])).axes
    (guessing,) = [line.get_ydata() for line in axes.lines if line.get_label() not in ("undefended",)][:1]
    expected = sum(float(binom.sf(np.ceil(0.25 * m - 1e-9) - 1, m, 0.01)) for m in models if m)
    assert np.asarray(guessing)[99] == pytest.approx(expected)


def test_nothing_to_draw_is_said(make_result: Callable[..., Result]) -> None:
    with pytest.raises(ValueError, match="results hold no exposure of single records; evaluate the runs anew"):
        exposure(Comparison([make_result(exposed={})]))
