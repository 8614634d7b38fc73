from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import BASE, RMIA, View
from palisade.attacks.rmia import LEAST_NONMEMBERS, OFFLINE_A_VALUES, UNTUNED_OFFLINE_A
from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr


def view_of(phi: np.ndarray, member: np.ndarray, population: np.ndarray, groups: np.ndarray | None = None) -> View:
    """A view whose log-odds are exactly the given φ, on records and population."""
    logits, population_logits = (np.stack([values, np.zeros_like(values)], axis=-1) for values in (phi, population))
    labels, population_labels = (np.zeros(values.shape[1], dtype=int) for values in (phi, population))
    return View(
        logits=logits, labels=labels, membership=member, groups=groups,
        population_logits=population_logits, population_labels=population_labels,
    )  # fmt: skip


def simulated(seed: int, effect: float, models: int = 12, offset: float = 0.0) -> tuple[np.ndarray, ...]:
    """φ of records of different hardness, on which training has an effect; who is a member; φ of the population."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, 1500)) < 0.5
    hardness = offset + 3 * rng.standard_normal(2000)
    phi = hardness + rng.standard_normal((models, 2000))
    return phi[:, :1500] + effect * member, member, phi[:, 1500:]


def mean_auc(scores: np.ndarray, member: np.ndarray) -> float:
    scored = ~np.isnan(scores)
    rows = zip(scores, member, scored, strict=True)
    return float(np.mean([roc_auc(row[has_score], truth[has_score]) for row, truth, has_score in rows]))


def probability(phi: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-phi / 2))


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def naive(
    phi: np.ndarray, member: np.ndarray, population: np.ndarray, group: np.ndarray, online: bool, gamma: float, a: float
) -> tuple[np.ndarray, np.ndarray]:
    """The share and the ratio by definition, one target, record and population record at a time."""
    p, p_z = probability(phi), probability(population)
    shares, ratios = np.full(phi.shape, np.nan), np.full(phi.shape, np.nan)
    for k in range(len(p)):
        shadows = np.flatnonzero(group != group[k])
        r_z = [p_z[k, z] / (((1 + a) * mean(p_z[shadows, z].tolist()) + 1 - a) / 2) for z in range(p_z.shape[1])]
        for x in range(p.shape[1]):
            inside = mean([p[j, x] for j in shadows if member[j, x]])
            outside = mean([p[j, x] for j in shadows if not member[j, x]])
            if not online and len(shadows) == 1 and member[shadows[0], x]:
                outside = min(max((inside + a - 1) / a, 1e-12), 1) if a > 0 else np.nan
            r = p[k, x] / ((inside + outside) / 2 if online else ((1 + a) * outside + 1 - a) / 2)
            if not np.isnan(r):
                ratios[k, x], shares[k, x] = r, np.mean([r / other > gamma for other in r_z])
    return shares, ratios


@pytest.mark.parametrize("online", [True, False])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_equals_the_double_loop(online: bool, data: st.DataObject) -> None:
    models, gamma = data.draw(st.integers(2, 6)), data.draw(st.sampled_from([1.0, 2.0]))
    a = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    phi, population = 4 * rng.standard_normal((models, 5)), 4 * rng.standard_normal((models, 7))
    member = rng.random((models, 5)) < 0.5
    group = rng.integers(models, size=models) if data.draw(st.booleans()) else np.arange(models)
    view, attack = view_of(phi, member, population, group), RMIA(online=online, gamma=gamma, offline_a=a)
    if attack.missing(view) is not None:
        return
    shares, ratios = naive(phi, member, population, group, online, gamma, a)
    expected = shares + np.arctan(np.log(ratios)) / (2 * np.pi * 7)
    np.testing.assert_allclose(attack.score(view), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("online", [True, False])
def test_a_targets_membership_never_enters_its_scores(online: bool) -> None:
    phi, member, population = simulated(0, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    for groups in (None, np.arange(12) // 2):
        scores = [RMIA(online=online).score(view_of(phi, rows, population, groups))[3] for rows in (member, flipped)]
        np.testing.assert_array_equal(*scores)
    own_fit = [view_of(phi, rows, population) for rows in (member, flipped)]
    for view in own_fit:
        view.__dict__["others"] = np.ones((12, 12), dtype=bool)
    faulty = [RMIA(online=online).score(view)[3] for view in own_fit]
    assert (faulty[0] != faulty[1]).mean() > 0.9, "a target in its own fit is caught"


def test_scores_share_the_order_of_the_ratio_however_small_the_population() -> None:
    phi, member, population = simulated(0, 2.0)
    phi[:, 1] = phi[:, 0]  # records that are alike to the last bit tie
    member[:, 1] = member[:, 0]
    for size in (1, 7, 500):
        view = view_of(phi, member, population[:, :size])
        scores, ratios = RMIA().score(view), BASE().score(view)
        for row, ratio in zip(scores, ratios, strict=True):
            np.testing.assert_array_equal(row[np.argsort(ratio)], np.sort(row))
            assert len(np.unique(row)) == len(np.unique(ratio)), "ties are broken, and equal ratios are not"
        assert mean_auc(scores, member) == pytest.approx(mean_auc(ratios, member), abs=1e-12)


def test_a_population_record_that_is_favored_as_much_does_not_count() -> None:
    member = (np.arange(6)[:, None] + np.arange(4)) % 2 == 0
    view = view_of(np.zeros((6, 4)), member, np.zeros((6, 2)))
    np.testing.assert_array_equal(RMIA(gamma=1.0, offline_a=1.0).score(view), np.zeros((6, 4)))  # r(x) = r(z) = 1


def test_the_tie_break_stays_within_a_step_of_the_share() -> None:
    phi, member, population = simulated(0, 2.0)
    scores = RMIA(offline_a=0.3).score(view_of(30 * phi, member, population[:, :20]))
    steps = 20 * scores[~np.isnan(scores)]
    assert np.abs(steps - np.round(steps)).max() < 0.25


@pytest.mark.parametrize("online", [True, False])
def test_null_gives_guessing(online: bool) -> None:
    phi, member, population = simulated(0, 0.0)
    assert mean_auc(RMIA(online=online).score(view_of(phi, member, population)), member) == pytest.approx(0.5, abs=0.02)


def false_positives(view: View, level: float) -> float:
    """The FPR of the threshold at which a share of `level` is to be called members."""
    return float((RMIA(online=False, gamma=1.0).score(view)[~view.membership] > 1 - level).mean())


def test_the_score_is_a_calibrated_false_positive_rate() -> None:
    rates = [false_positives(view_of(*simulated(seed, 4.0)), 0.1) for seed in range(3)]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.02)


def test_a_population_that_overlaps_the_members_breaks_the_calibration() -> None:
    phi, member, _ = simulated(0, 4.0)
    assert false_positives(view_of(phi, member, phi[:, :750]), 0.1) < 0.05


def test_float64_tells_what_float32_rounds_away() -> None:
    phi, member, population = simulated(0, 2.0, offset=45.0)  # 1 − p is about 1e-10
    assert mean_auc(RMIA().score(view_of(phi, member, population)), member) > 0.75


def test_a_is_tuned_on_the_next_model_without_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    phi, member, population = simulated(0, 1.5, models=6)
    phi, member = phi[:, :200], member[:, :200]
    group = np.array([0, 0, 1, 2, 3, 4])
    p, tuned = probability(phi), []
    for k in range(6):
        shadow = next(j % 6 for j in range(k + 1, k + 6) if group[j % 6] != group[k])
        models = [j for j in range(6) if group[j] not in (group[k], group[shadow])]
        outside = np.array([mean([p[j, x] for j in models if not member[j, x]]) for x in range(200)])
        scored = ~np.isnan(outside)
        in_shadow, ratios = (
            member[shadow, scored],
            [(p[shadow] / ((1 + a) * outside + 1 - a))[scored] for a in OFFLINE_A_VALUES],
        )
        above = [[(r[in_shadow] > z).sum() for z in np.sort(r[~in_shadow])[-LEAST_NONMEMBERS:]] for r in ratios]
        tuned.append(OFFLINE_A_VALUES[np.argmax(np.sum(above, axis=1))])
    assert len(set(tuned)) > 1
    view = view_of(phi, member, population, group)
    scores = RMIA(online=False).score(view)
    for k, a in enumerate(tuned):
        np.testing.assert_array_equal(scores[k], RMIA(online=False, offline_a=a).score(view)[k])
    monkeypatch.setattr("palisade.attacks.rmia.RECORDS_TO_TUNE", 100)
    np.testing.assert_array_equal(RMIA(online=False).score(view).shape, scores.shape)


def mean_tpr(scores: np.ndarray, member: np.ndarray) -> float:
    scored = ~np.isnan(scores)
    rows = zip(scores, member, scored, strict=True)
    return float(np.mean([tpr_at_fpr(s[k], m[k], 0.01) for s, m, k in rows]))


def test_a_tuned_attack_is_about_as_good_at_a_low_fpr_as_any() -> None:
    phi, member, population = simulated(0, 2.0)
    view = view_of(phi, member, population)
    best = max(mean_tpr(RMIA(online=False, offline_a=float(a)).score(view), member) for a in OFFLINE_A_VALUES)
    assert mean_tpr(RMIA(online=False).score(view), member) > best - 0.02


def test_a_single_shadow_that_trained_on_the_record_is_inverted() -> None:
    phi, member, population = simulated(0, 2.0, models=2)
    view = view_of(phi, member, population)
    assert np.isfinite(RMIA(online=False).score(view)).all(), "nothing is left to tune a on"
    np.testing.assert_array_equal(
        RMIA(online=False).score(view), RMIA(online=False, offline_a=UNTUNED_OFFLINE_A).score(view)
    )
    undefined = RMIA(online=False, offline_a=0.0).score(view)
    np.testing.assert_array_equal(np.isnan(undefined), member[::-1])
    assert mean_auc(RMIA(online=False).score(view), member) > 0.7


def test_a_record_without_a_side_has_no_score() -> None:
    phi, member, population = simulated(0, 1.0)
    member[:, 0], member[:, 1], member[:, 2] = True, False, np.arange(12) == 0
    view = view_of(phi, member, population)
    online, offline = RMIA().score(view), RMIA(online=False).score(view)
    assert np.isnan(online[:, :2]).all()
    np.testing.assert_array_equal(np.isnan(online[:, 2]), member[:, 2])
    assert np.isnan(offline[:, 0]).all()
    assert np.isfinite(offline[:, 1:3]).all()


def test_needs_a_population() -> None:
    phi, member, population = simulated(0, 1.0)
    view = view_of(phi, member, population)
    bare = View(logits=view.logits, labels=view.labels, membership=member)
    with pytest.raises(ValueError, match=r"attack=rmia: expected .* needs population records"):
        RMIA().score(bare)


def test_names() -> None:
    assert (RMIA().name, RMIA(online=False).name) == ("rmia", "rmia_offline")
    assert (RMIA().threat.shadows, RMIA(online=False).threat.shadows) == ("online", "offline")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0: expected a number > 0; choose e.g. 2"),
        ({"gamma": 0.5}, r"gamma=0\.5: expected a number >= 1; "),
        ({"offline_a": 1.5}, r"offline_a=1\.5: expected a number >= 0 and <= 1, or null; "),
    ],
)
def test_errors(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RMIA(**settings)
