from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palisade.attacks import LiRA, LossThreshold, View
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr
from palisade.evaluation.statistics.roc import Roc

Make = Callable[..., View]
VARIANCE_KINDS = ["shrunk", "fixed", "per_record"]


def naive(phi: np.ndarray, member: np.ndarray, group: np.ndarray, online: bool, variance: str) -> np.ndarray:
    """The definition, one target, record and shadow at a time."""
    models, records = phi.shape
    scores = np.full((models, records), np.nan)
    for k in range(models):

        def shadows(x: int, inside: bool, k: int = k) -> np.ndarray:
            return np.array([phi[j, x] for j in range(models) if group[j] != group[k] and member[j, x] == inside])

        def pool(inside: bool) -> float:
            sides = [shadows(x, inside) for x in range(records)]
            freedom = sum(max(len(side) - 1, 0) for side in sides)
            return (
                sum(((side - side.mean()) ** 2).sum() for side in sides if len(side)) / freedom if freedom else np.nan
            )

        pools = {True: np.nan, False: np.nan}
        if variance != "per_record":
            pools = {True: pool(True) if online else np.nan, False: pool(False)}
        for x in range(records):
            logs, z = {}, np.nan
            for inside in (True, False):
                side = shadows(x, inside)
                n, mean = len(side), side.mean() if len(side) else np.nan
                pooled = next((p for p in (pools[inside], pools[not inside]) if not np.isnan(p)), 1.0)
                squares = ((side - mean) ** 2).sum()
                if variance == "fixed":
                    spread, density = np.sqrt(pooled), stats.norm()
                elif variance == "per_record":
                    spread, density = np.sqrt(squares / (n - 1)) if n >= 8 else np.nan, stats.norm()
                else:
                    spread = np.sqrt((4 * pooled + squares) / (3 + n) * (1 + 1 / max(n, 1)))
                    density = stats.t(3 + n)
                z = (phi[k, x] - mean) / spread
                logs[inside] = density.logpdf(z) - np.log(spread)
            scores[k, x] = logs[True] - logs[False] if online else z
    return scores


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", VARIANCE_KINDS)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_equals_the_double_loop(view_of: Make, online: bool, variance: str, data: st.DataObject) -> None:
    models = 20 if variance == "per_record" else data.draw(st.integers(3, 8))
    records, queries = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    member = rng.random((models, records)) < 0.5
    group = rng.integers(models, size=models) if data.draw(st.booleans()) else np.arange(models)
    phi = (
        3 * rng.standard_normal((models, records, queries))
        + member[:, :, None]
        + 5 * rng.standard_normal(records)[:, None]
    )
    view, attack = view_of(phi, member, group), LiRA(online=online, variance=variance)  # type: ignore[arg-type]
    if attack.missing(view) is not None:
        return
    expected = np.mean([naive(phi[:, :, q], member, group, online, variance) for q in range(queries)], axis=0)
    np.testing.assert_allclose(attack.score(view), expected, rtol=1e-7, atol=1e-7)


def test_pooled_variance_borrows_the_other_side_and_then_one(view_of: Make) -> None:
    member = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)[[0, 2, 3]]  # two models never share an IN record
    phi = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 9.0]])
    scores = LiRA(variance="fixed").score(view_of(phi, member))
    np.testing.assert_allclose(scores, naive(phi, member, np.arange(3), True, "fixed"), equal_nan=True)
    one = LiRA(online=False).score(view_of(phi[:2], np.array([[True, False], [False, False]])))
    np.testing.assert_allclose(one[0], (phi[0] - phi[1]) / np.sqrt(2), err_msg="one OUT model each: σ = 1")


def simulated(seed: int, models: int, records: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """φ of records of different hardness, on which training has an effect of different size."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    hardness, effects = 3 * rng.standard_normal(records), effect * rng.exponential(size=records)
    return hardness + rng.standard_normal((models, records)) + effects * member, member


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", VARIANCE_KINDS)
def test_a_targets_membership_never_enters_its_scores(view_of: Make, online: bool, variance: str) -> None:
    phi, member = simulated(0, 20, 50, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    attack = LiRA(online=online, variance=variance)  # type: ignore[arg-type]
    np.testing.assert_array_equal(attack.score(view_of(phi, member))[3], attack.score(view_of(phi, flipped))[3])


def test_twins_are_left_out_together(view_of: Make) -> None:
    half, _ = simulated(0, 7, 2000, 0.0)
    rng = np.random.default_rng(1)
    first = rng.random((3, 2000)) < 0.5
    twins = np.stack([first, ~first], axis=1).reshape(6, 2000)
    member = np.vstack([twins, rng.random(2000) < 0.5])  # the last one is nobody's twin: records differ in their count
    paired = LiRA().score(view_of(half, member, np.arange(7) // 2))
    alone = LiRA().score(view_of(half, member))
    assert np.mean([roc_auc(*row) for row in zip(paired, member, strict=True)]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([roc_auc(*row) for row in zip(alone, member, strict=True)]) < 0.47, "the twin gives the target away"


NULL_METRICS = {"auc": Roc.auc, "tpr": lambda roc: roc.tpr_at(0.01)}
FLEET_COUNT = 40


def contained(view_of: Make, attack: LiRA, *, own_fit: bool) -> np.ndarray:
    """Number of the null fleets' intervals that contain the guessing level, for AUC and TPR at 1 % FPR."""
    hits = np.zeros(2, dtype=int)
    for seed in range(FLEET_COUNT):
        phi, member = simulated(seed, 8, 800, 0.0)
        view = view_of(phi, member)
        if own_fit:
            view.__dict__["others"] = np.ones((8, 8), dtype=bool)
        estimates = fleet_metrics(
            attack.score(view), member, NULL_METRICS, Bootstrap(replicates=60, seed=seed)
        ).estimates
        hits += [
            estimates["auc"].low <= 0.5 <= estimates["auc"].high,
            estimates["tpr"].low <= 0.01 <= estimates["tpr"].high,
        ]
    return hits


@pytest.mark.parametrize("attack", [LiRA(), LiRA(online=False)])
def test_null_intervals_contain_guessing(view_of: Make, attack: LiRA) -> None:
    assert (contained(view_of, attack, own_fit=False) >= 0.9 * FLEET_COUNT).all()


def test_null_test_catches_a_target_in_its_own_fit(view_of: Make) -> None:
    assert (contained(view_of, LiRA(), own_fit=True) <= 0.1 * FLEET_COUNT).all()


@pytest.mark.parametrize("variance", VARIANCE_KINDS)
def test_offline_is_one_sided_and_never_saturates(view_of: Make, variance: str) -> None:
    phi, member = simulated(0, 20, 30, 0.0)
    scores = []
    for value in (-60.0, -50.0, 50.0, 60.0):
        phi[0] = value
        scores.append(LiRA(online=False, variance=variance).score(view_of(phi, member))[0])  # type: ignore[arg-type]
    scored = ~np.isnan(scores[0])
    assert scored.any()
    assert (np.diff(scores, axis=0)[:, scored] > 0).all()


def test_the_stronger_variant_finds_more(view_of: Make) -> None:
    phi, member = simulated(0, 24, 1500, 2.0)
    auc = {
        attack: np.mean([roc_auc(*row) for row in zip(attack.score(view_of(phi, member)), member, strict=True)])
        for attack in (LossThreshold(), LiRA(online=False), LiRA(variance="fixed"), LiRA())
    }
    loss, offline, fixed, shrunk = auc.values()
    assert loss < offline < fixed
    assert offline < shrunk
    assert tpr_at_fpr(LiRA().score(view_of(phi, member))[0], member[0], 0.01) > 0.2


def test_records_without_a_side_have_no_score(view_of: Make) -> None:
    phi, member = simulated(0, 6, 40, 1.0)
    member[:, 0], member[:, 1], member[:, 2] = True, False, [True, False, False, False, False, False]
    online = LiRA().score(view_of(phi, member))
    assert np.isnan(online[:, :2]).all()
    assert np.isnan(online[0, 2])
    assert np.isfinite(online[1:, 2]).all()
    offline = LiRA(online=False).score(view_of(phi, member))
    assert np.isnan(offline[:, 0]).all()
    assert np.isfinite(offline[:, 1:3]).all()


def test_own_variances_need_eight_models_a_side(view_of: Make) -> None:
    phi, member = simulated(0, 20, 100, 1.0)
    scores = LiRA(variance="per_record").score(view_of(phi, member))
    inside = member.sum(axis=0) - member
    np.testing.assert_array_equal(np.isnan(scores), (inside < 8) | (19 - inside < 8))


def test_saturated_signals_stay_finite_and_tell_nothing(view_of: Make) -> None:
    _, member = simulated(0, 12, 2000, 0.0)
    view = view_of(np.full((12, 2000), 103.97), member)
    metrics = fleet_metrics(LiRA().score(view), member, NULL_METRICS, Bootstrap(replicates=60))
    assert metrics.dropped.sum() < 100, "only records without IN or without OUT models"
    assert metrics.estimates["auc"].low <= 0.5 <= metrics.estimates["auc"].high


def test_names_and_errors() -> None:
    assert (LiRA().name, LiRA(online=False).name) == ("lira", "lira_offline")
    assert (LiRA().threat.shadows, LiRA(online=False).threat.shadows) == ("online", "offline")
    with pytest.raises(ValueError, match="variance=global"):
        LiRA(variance="global")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="compat=jax"):
        LiRA(compat="jax")  # type: ignore[arg-type]


def reference(phi: np.ndarray, member: np.ndarray, group: np.ndarray, online: bool, per_record: bool) -> np.ndarray:
    """Scores of the authors' code, target by target and record by record."""
    models, records, queries = phi.shape
    scores = np.full((models, records), np.nan)
    for k in range(models):
        shadow = group != group[k]
        pooled = phi[member & shadow[:, None]] if online else phi[~member & shadow[:, None]]
        for x in range(records):
            logs: dict[bool, list[float]] = {True: [], False: []}
            for q, inside in np.ndindex(queries, 2):
                side = phi[shadow & (member[:, x] == bool(inside)), x, q]
                if len(side):
                    spread = side.std() if per_record else pooled.std()
                    logs[bool(inside)].append(stats.norm.logpdf(phi[k, x, q], np.median(side), spread + 1e-30))
            if logs[False] and (logs[True] or not online):
                scores[k, x] = (np.mean(logs[True]) if online else 0) - np.mean(logs[False])
    return scores + (0 if online else -np.log(2 * np.pi) / 2)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("per_record", [True, False])
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.booleans())
def test_compat_equals_what_the_authors_compute(
    view_of: Make, online: bool, per_record: bool, seed: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    member = np.stack([rng.permutation([True] * 5 + [False] * 4) for _ in range(6)], axis=1)
    group = rng.integers(9, size=9) if grouped else np.arange(9)
    phi = 3 * rng.standard_normal((9, 6, 2)) + member[:, :, None] + 5 * rng.standard_normal(6)[:, None]
    attack = LiRA(online=online, variance="per_record" if per_record else "shrunk", compat="carlini")
    view = view_of(phi, member, group)
    if attack.missing(view) is None:
        scores, expected = attack.score(view), reference(phi, member, group, online, per_record)
        common = np.abs(expected) < 1e10  # with a single shadow a side the authors divide by 1e-30
        np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected))
        np.testing.assert_allclose(scores[common], expected[common], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", ["fixed", "per_record"])
def test_compat_leaves_the_target_out(view_of: Make, online: bool, variance: str) -> None:
    phi, member = simulated(0, 20, 50, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    attack = LiRA(online=online, variance=variance, compat="carlini")  # type: ignore[arg-type]
    np.testing.assert_array_equal(attack.score(view_of(phi, member))[3], attack.score(view_of(phi, flipped))[3])


def mean_auc(attack: LiRA, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(attack.score(view), view.membership, strict=True)]))


def test_compat_is_two_sided_offline_and_loses_by_it(view_of: Make) -> None:
    phi, member = simulated(0, 24, 1500, 2.0)
    compat = LiRA(online=False, compat="carlini")
    assert mean_auc(compat, view_of(phi, member)) < mean_auc(LiRA(online=False), view_of(phi, member)) - 0.05
    phi[0] = -60.0
    lowest = compat.score(view_of(phi, member))[0]
    phi[0] = -50.0
    assert (lowest > compat.score(view_of(phi, member))[0]).all(), "the lower φ, the more of a member"


def test_compat_mixes_in_the_spread_between_records(view_of: Make) -> None:
    phi, member = simulated(0, 24, 1500, 2.0)
    far = 100 * (np.arange(1500) % 2)
    scores = [LiRA(compat="carlini").score(view_of(phi + shift, member)) for shift in (0, far)]
    assert np.abs(scores[1]).mean() < 0.1 * np.abs(scores[0]).mean()
    same = [mean_auc(LiRA(), view_of(phi + shift, member)) for shift in (0, far)]
    assert same[0] == pytest.approx(same[1], abs=0.01)


def test_statistics_are_in_float64(view_of: Make) -> None:
    phi, member = simulated(0, 12, 200, 1.0)
    far = LiRA().score(view_of(phi + 2.0**20, member))  # where float32 resolves an eighth
    np.testing.assert_allclose(far, LiRA().score(view_of(phi, member)), rtol=1e-6, atol=1e-6)
