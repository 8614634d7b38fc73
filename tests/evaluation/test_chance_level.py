"""Noise is not called leakage: not by its mean, not by luck, and not by the luck of the best of many attacks."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import Attack, View
from palisade.attacks.parts.threat import ThreatModel
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.tradeoff import tradeoff
from palisade.evaluation.flags import flags
from palisade.evaluation.labels import drawn_level, guessing_range, guessing_text
from palisade.evaluation.limit import Limit
from palisade.evaluation.measuring.leakage import null_rows, null_rows_of_groups
from palisade.evaluation.report.sections import groups
from palisade.evaluation.report.verdict import sentence
from palisade.evaluation.result import Result, Row, chance_at, null_at, tpr_at
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.chance import chance_level, null_quantiles, null_tprs, redraws
from palisade.evaluation.statistics.metrics import tpr_at_fpr
from palisade.evaluation.table import show_results

SIMULATED_FLEETS = 200
ALLOWED_ERROR_RATE = 0.05
"""Share of fleets without leakage that may be called leaking."""


def noise(models: int, records: int, seed: int, attacks: int = 1, leak: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of several attacks, and memberships that move them by `leak` standard deviations."""
    rng = np.random.default_rng([seed, models, records])
    membership = rng.random((models, records)) < 0.5
    return rng.normal(size=(attacks, models, records)) + leak * membership, membership


@dataclass(frozen=True)
class NoiseAttack(Attack):
    """An attack whose scores are made here."""

    number: int = 0

    @property
    def name(self) -> str:
        return f"noise {self.number}"

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel()

    def _score(self, view: View) -> np.ndarray:
        raise NotImplementedError


def luck(scores: np.ndarray, membership: np.ndarray, seed: int = 0, persons: np.ndarray | None = None) -> list[Row]:
    """TPR of guessing with these scores, as a run's measurement reports it."""
    seen = seen_by(membership, persons)
    return list(null_rows({NoiseAttack(k): own for k, own in enumerate(scores)}, seen, seed))


def seen_by(membership: np.ndarray, persons: np.ndarray | None = None) -> View:
    answers = np.full((*membership.shape, 2), 0.5)
    return View(
        probabilities=answers, labels=np.zeros(membership.shape[1], int), membership=membership, persons=persons
    )


def result_on(base: Result, scores: np.ndarray, membership: np.ndarray, seed: int, fpr: float) -> Result:
    """The TPRs of as many attacks as there are scores, with what guessing finds."""
    rows = luck(scores, membership, seed)
    for k, own in enumerate(scores):
        whole = fleet_metrics(
            own, membership, {"tpr": lambda roc: roc.tpr_at(fpr)}, Bootstrap(replicates=40, seed=seed)
        )
        rows.append(Row(metric=tpr_at(fpr), attack=f"noise {k}", **whole.estimates["tpr"]._asdict()))
    return replace(base, rows=rows)


def leak_verdicts(result: Result, fpr: float) -> tuple[bool, bool]:
    """Verdicts on the attack with the highest TPR: leakage by the chance level, and leakage above the FPR itself."""
    rows = [row for row in result.rows if row.metric == tpr_at(fpr)]
    strongest = max(rows, key=lambda row: row.value or 0.0)
    return result.excludes_guessing(strongest), (strongest.low or 0.0) > fpr


@settings(max_examples=25, deadline=None)
@given(st.integers(100, 400), st.integers(50, 300), st.sampled_from([0.01, 0.02, 0.05]), st.integers(0, 2**32))
def test_the_level_is_the_mean_of_guessing(nonmembers: int, members: int, fpr: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside = np.arange(members + nonmembers) < members
    reached = np.array([tpr_at_fpr(rng.random(len(inside)), inside, fpr) for _ in range(300)])
    level = chance_level([nonmembers], fpr)
    assert abs(reached.mean() - level) < 4.5 * reached.std() / np.sqrt(len(reached)), (reached.mean(), level)


def test_the_level_by_hand() -> None:
    assert chance_level([130], 0.01) == pytest.approx(2 / 131)
    assert chance_level([100], 0.07) == pytest.approx(8 / 101)  # 0.07 · 100 is rounded above 7
    assert chance_level([130, 299], 0.01) == pytest.approx((2 / 131 + 3 / 300) / 2)
    assert np.isnan(chance_level([99], 0.01)) and np.isnan(chance_level([500, 99], 0.01))
    assert chance_level([5], 1.0) == 1.0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(4, 60), st.sampled_from([0.05, 0.1, 0.3]), st.booleans(), st.booleans(),
    st.integers(0, 2**32),
)  # fmt: skip
def test_a_redraw_is_measured_as_the_fleet_is(
    models: int, records: int, fpr: float, ties: bool, gaps: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, membership = rng.normal(size=(models, records)), rng.random((models, records)) < 0.5
    scores = np.round(scores) if ties else scores
    scores[rng.random(scores.shape) < 0.2 * gaps] = np.nan
    persons = rng.integers(records // 2, size=records) if gaps else None
    if persons is not None:
        membership = membership[:, persons]
    exchanged = redraws(records, persons, replicates=3, seed=seed % 1000)
    null = null_tprs(scores, membership, fpr, exchanged)
    for drawn, value in zip(exchanged, null, strict=True):
        own = [
            tpr_at_fpr(row[~np.isnan(row)], members[~np.isnan(row)], fpr)
            if 0 < members[~np.isnan(row)].sum() < (~np.isnan(row)).sum()
            else np.nan
            for row, members in zip(scores, membership[:, drawn], strict=True)
        ]
        expected = np.nan if np.isnan(own).all() else np.nanmean(own)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_memberships_are_drawn_anew_as_they_were() -> None:
    membership = noise(1, 200, 0)[1]
    twins, persons = np.vstack([membership, ~membership]), np.arange(200) // 4
    drawn = redraws(200, replicates=20)
    assert all((twins[0, again] != twins[1, again]).all() for again in drawn), "complementary models"
    assert all(membership[0, again].sum() == membership.sum() for again in drawn), "a fixed split"
    together = membership[:, persons]
    assert all(len(np.unique(together[0, again][persons == 7])) == 1 for again in redraws(200, persons)), "one fate"
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(redraws(50, seed=3), redraws(50, seed=3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "records", "fpr", "fleets", "attacks"),
    [(32, 260, 0.01, 60, 1), (64, 400, 0.01, 40, 1), (32, 4000, 0.001, 10, 1), (16, 400, 0.01, 12, 15)],
)
def test_noise_is_not_called_leakage(
    make_result: Callable[..., Result], models: int, records: int, fpr: float, fleets: int, attacks: int
) -> None:
    base = make_result()
    verdicts = np.array(
        [
            leak_verdicts(result_on(base, *noise(models, records, seed, attacks), seed, fpr), fpr)
            for seed in range(fleets)
        ]
    )  # fmt: skip
    false, above_the_fpr = verdicts.sum(axis=0)
    assert false <= ALLOWED_ERROR_RATE * fleets + 3 * np.sqrt(ALLOWED_ERROR_RATE * (1 - ALLOWED_ERROR_RATE) * fleets), (
        false
    )
    if fpr == 0.01:
        assert above_the_fpr > 0.2 * fleets, "these fleets are those that the FPR as the bar calls leaking"


@pytest.mark.slow
def test_a_value_beyond_luck_is_as_rare_as_it_should_be() -> None:
    """Sharper than the verdict, whose interval leaves room: of noise the strongest value itself exceeds the bar."""
    exceeded = 0
    for seed in range(SIMULATED_FLEETS):
        scores, membership = noise(4, 300, seed, attacks=4)
        exchanged = redraws(300, seed=seed, replicates=80)
        most = null_quantiles(np.column_stack([null_tprs(own, membership, 0.01, exchanged) for own in scores]))
        values = [np.mean([tpr_at_fpr(*row, 0.01) for row in zip(own, membership, strict=True)]) for own in scores]
        exceeded += bool((np.array(values) > most).any())
    assert (
        0.01 * SIMULATED_FLEETS
        <= exceeded
        <= ALLOWED_ERROR_RATE * SIMULATED_FLEETS
        + 3 * np.sqrt(ALLOWED_ERROR_RATE * (1 - ALLOWED_ERROR_RATE) * SIMULATED_FLEETS)
    ), exceeded


@pytest.mark.parametrize(("models", "records", "attacks"), [(32, 260, 1), (16, 400, 15)])
def test_leakage_is_reported(
    make_result: Callable[..., Result], models: int, records: int, attacks: int
) -> None:  # fmt: skip
    base = make_result()
    fleets = [noise(models, records, seed, attacks, leak=1.0) for seed in range(3)]
    assert all(leak_verdicts(result_on(base, *fleet, seed, 0.01), 0.01)[0] for seed, fleet in enumerate(fleets))


def test_the_choice_among_many_raises_the_bar_and_ties_do_not_lower_it() -> None:
    scores, membership = noise(16, 400, 0, attacks=15)
    alone, among = (
        {row.metric: row.value for row in rows if row.attack == "noise 0"}
        for rows in (luck(scores[:1], membership), luck(scores, membership))
    )
    level = chance_level((~membership).sum(axis=1), 0.01)
    assert level == alone[chance_at(0.01)] == among[chance_at(0.01)]
    assert level < alone[null_at(0.01)] < among[null_at(0.01)]
    assert alone[chance_at(0.001)] is None and alone[null_at(0.001)] is None
    tied = {row.metric: row.value for row in luck(np.sign(scores[:1]), membership)}
    assert tied[null_at(0.01)] == level


def test_groups_have_their_own_bar() -> None:
    scores, membership = noise(16, 1000, 0)
    small = np.arange(1000) < 300
    rows = null_rows_of_groups(NoiseAttack(), scores[0], seen_by(membership), 0, [("few", small), ("many", ~small)])
    bars = {(row.group, row.metric): row.value for row in rows}
    assert bars["few", chance_at(0.01)] == chance_level((~membership[:, small]).sum(axis=1), 0.01)
    for group in ("few", "many"):
        assert bars[group, null_at(0.01)] > bars[group, chance_at(0.01)]
    assert bars["few", null_at(0.01)] > bars["many", null_at(0.01)] > 0.01


def with_luck(result: Result, low: float, value: float = 0.02, level: float = 0.015, most: float = 0.02) -> Result:
    """The results with other TPRs of the strongest attack, and what guessing finds."""
    rows = [
        replace(row, value=value, low=low, high=0.03)
        if (row.metric, row.attack, row.model, row.group) == (tpr_at(0.01), result.strongest, "all", "all")
        else replace(row, value=value)
        if (row.metric, row.attack, row.group) == (tpr_at(0.01), result.strongest, "all")
        else row
        for row in result.rows
    ]
    named = {"attack": result.strongest, "access": "black_box"}
    rows += [Row(metric=chance_at(0.01), value=level, **named), Row(metric=null_at(0.01), value=most, **named)]
    return replace(make_strongest(result), rows=rows)


def make_strongest(result: Result) -> Result:
    """Result with its strongest attack alone."""
    return replace(result, roc={result.strongest: result.roc[result.strongest]})


def test_figures_table_and_report_tell_the_level(make_result: Callable[..., Result]) -> None:
    lucky = with_luck(make_result(nonmembers=10_000), low=0.012)
    level = next(line for line in tradeoff(Comparison([lucky])).axes[0].lines if line.get_label() == "guessing")
    assert set(np.asarray(level.get_ydata())) == {0.015} and drawn_level([lucky]) == 0.015
    printed = io.StringIO()
    show_results(Comparison([lucky]), file=printed)
    assert "guessing: finds 1.5 % at 1 % FPR on average" in " ".join(printed.getvalue().split())
    assert "luck explains up to 20)" in sentence(lucky)
    assert "Over all records it does better than guessing" in sentence(lucky)
    assert guessing_range([make_result()]) == ""
    part = {"attack": "lira", "access": "black_box", "group": "class=3"}
    rows = [Row(metric=chance_at(0.01), value=0.04, **part), Row(metric=null_at(0.01), value=0.1, **part)]
    (parts,) = groups(Comparison([replace(lucky, rows=[*lucky.rows, *rows])]))
    assert parts["shown"][0]["guessing"] == "4 % (luck explains up to 10 %)"


def test_every_judge_asks_the_same(make_result: Callable[..., Result]) -> None:
    lucky = with_luck(make_result(nonmembers=10_000), low=0.012)
    leaky = with_luck(make_result(nonmembers=10_000), low=0.021, value=0.026)
    rows = {name: result.get(tpr_at(0.01), attack="lira") for name, result in (("lucky", lucky), ("leaky", leaky))}
    assert not lucky.excludes_guessing(rows["lucky"]) and leaky.excludes_guessing(rows["leaky"])
    assert lucky.guessing_level(rows["lucky"]) == 0.015 and lucky.null_quantile(rows["lucky"]) == 0.02
    assert guessing_text(lucky, rows["lucky"]) == "1.5 % (luck explains up to 2 %)"
    assert [[flag.name for flag in flags(result, Comparison([result]))] for result in (lucky, leaky)] == [
        ["1% by luck"],
        [],
    ]
    assert lucky.leakage == 0.01 and leaky.leakage == 0.026
    limit = Limit(name="gate", max_tpr=0.05)
    assert "guessing finds 1.5 %" in limit.measured(lucky) and "guessing" not in limit.measured(leaky)
    assert limit.verdict(lucky, Comparison([lucky])).why is None
    below = Limit(name="gate", max_tpr=0.014).verdict(lucky, Comparison([lucky])).why
    assert below is not None and "guessing finds 1.5 %" in below and "more records" in below


def test_an_attack_on_some_of_the_models_has_the_chance_level_of_its_targets() -> None:
    scores, membership = noise(8, 400, 0)
    scores[:, 4:] = np.nan
    rows = {(row.metric, row.attack): row.value for row in luck(scores, membership)}
    assert rows[chance_at(0.01), "noise 0"] == chance_level((~membership[:4]).sum(axis=1), 0.01)
    quantile, level = rows[null_at(0.01), "noise 0"], rows[chance_at(0.01), "noise 0"]
    assert quantile is not None and level is not None and quantile > level
