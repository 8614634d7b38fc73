from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palisade.attacks import LossThreshold, Reference, View
from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr

Make = Callable[..., View]


def naive(phi: np.ndarray, member: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The definition, one target, record and shadow at a time."""
    models, records = phi.shape
    scores = np.full((models, records), np.nan)
    for k in range(models):
        sides = [phi[(group != group[k]) & ~member[:, x], x] for x in range(records)]
        freedom = sum(max(len(side) - 1, 0) for side in sides)
        squares = sum(((side - side.mean()) ** 2).sum() for side in sides if len(side))
        spread = np.sqrt(squares / freedom) if freedom else 1.0
        for x, side in enumerate(sides):
            if len(side):
                scores[k, x] = np.mean([stats.t(2).cdf((phi[k, x] - other) / spread) for other in side])
    return scores


def simulated(seed: int, models: int, records: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """φ of records of different hardness, on which training has an effect of different size."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    hardness, effects = 3 * rng.standard_normal(records), effect * rng.exponential(size=records)
    return hardness + rng.standard_normal((models, records)) + effects * member, member


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_equals_the_double_loop(view_of: Make, data: st.DataObject) -> None:
    models, records = data.draw(st.integers(3, 7)), data.draw(st.integers(2, 5))
    seed = data.draw(st.integers(0, 2**32))
    phi, member = simulated(seed, models, records, 1.0)
    group = np.random.default_rng(seed).integers(models, size=models) if data.draw(st.booleans()) else np.arange(models)
    view = view_of(phi, member, group)
    if Reference().missing(view) is None:
        np.testing.assert_allclose(Reference().score(view), naive(phi, member, group), rtol=1e-7, atol=1e-9)


def test_far_from_all_references_it_is_the_share_of_models_with_a_larger_loss(view_of: Make) -> None:
    rng = np.random.default_rng(0)
    phi = 1e-3 * rng.standard_normal((6, 1000))
    phi[:, 0] = rng.permutation(6)  # steps far wider than the spread of the others
    scores = Reference().score(view_of(phi, rng.random((6, 1000)) < 0.5 * (np.arange(1000) > 0)))
    larger_loss = (phi[:, None, 0] > phi[None, :, 0]).sum(axis=1) / 5
    np.testing.assert_allclose(scores[:, 0], larger_loss, atol=0.01)


def test_a_targets_membership_never_enters_its_scores(view_of: Make) -> None:
    phi, member = simulated(0, 9, 50, 1.0)
    flipped = member.copy()
    flipped[3] = ~member[3]
    scores = [Reference().score(view_of(phi, rows))[3] for rows in (member, flipped)]
    np.testing.assert_array_equal(*scores)


FLEET_COUNT = 40


def null_rates(view_of: Make, *, own_fit: bool) -> np.ndarray:
    """AUC and TPR at 5 % FPR of fleets on which training has no effect."""
    null_rows = []
    for seed in range(FLEET_COUNT):
        phi, member = simulated(seed, 8, 500, 0.0)
        view = view_of(phi, member)
        if own_fit:
            view.__dict__["others"] = np.ones((8, 8), dtype=bool)
        null_rows.append(rates(Reference().score(view), member, 0.05))
    return np.array(null_rows)


def rates(scores: np.ndarray, member: np.ndarray, fpr: float) -> np.ndarray:
    scored = ~np.isnan(scores)
    rows = [(s[ok], m[ok]) for s, m, ok in zip(scores, member, scored, strict=True)]
    return np.mean([(roc_auc(*row), tpr_at_fpr(*row, fpr)) for row in rows], axis=0)


def test_null_fleets_give_guessing(view_of: Make) -> None:
    null_rows = null_rates(view_of, own_fit=False)
    assert (np.abs(null_rows.mean(axis=0) - [0.5, 0.05]) < 4 * null_rows.std(axis=0) / np.sqrt(FLEET_COUNT)).all()


def test_null_test_catches_a_target_among_its_own_references(view_of: Make) -> None:
    null_rows = null_rates(view_of, own_fit=True)
    assert null_rows[:, 1].mean() > 0.05 + 10 * null_rows[:, 1].std() / np.sqrt(FLEET_COUNT)


def test_the_surest_records_never_tie(view_of: Make) -> None:
    phi, member = simulated(0, 8, 30, 0.0)
    scores = []
    for value in (-600.0, -500.0, 500.0, 600.0):
        phi[0] = value
        scores.append(Reference().score(view_of(phi, member))[0])
    scored = ~np.isnan(scores[0])
    assert scored.any()
    assert (np.diff(scores, axis=0)[:, scored] > 0).all()


def test_equal_answers_tell_nothing_however_many_references_there_are(view_of: Make) -> None:
    _, member = simulated(0, 12, 200, 0.0)
    scores = Reference().score(view_of(np.full((12, 200), 103.97), member))
    assert (scores[~np.isnan(scores)] == 0.5).all()


def test_a_record_is_compared_with_itself(view_of: Make) -> None:
    phi, member = simulated(0, 16, 1500, 2.0)
    view = view_of(phi, member)
    reference, loss = (rates(attack.score(view), member, 0.01) for attack in (Reference(), LossThreshold()))
    assert reference[0] > loss[0] + 0.1
    assert reference[1] > 0.1, "not limited to 1/(k + 1)"


def test_one_reference_is_enough_and_none_gives_no_score(view_of: Make) -> None:
    phi = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 5.0]])
    member = np.array([[True, False, False], [False, False, True]])
    scores = Reference().score(view_of(phi, member))
    np.testing.assert_allclose(scores[0, :2], stats.t(2).cdf(phi[0, :2] - phi[1, :2]))  # σ = 1: no two of a side
    assert np.isnan(scores[0, 2])
    with pytest.raises(ValueError, match=r"attack=reference: expected .* needs models that did not train on a record"):
        Reference().score(view_of(phi, np.ones((2, 3), dtype=bool)))
