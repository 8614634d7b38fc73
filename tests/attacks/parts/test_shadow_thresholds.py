import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks.parts.thresholds import shadow_thresholds
from palisade.evaluation.statistics.metrics import Called, accuracy_estimate

ALL_OTHERS = ~np.eye(5, dtype=bool)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, often tied and sometimes missing, memberships and groups."""
    models, records = draw(st.integers(2, 6)), draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    member = rng.random((models, records)) < 0.5
    scores = rng.standard_normal((models, records)) + member
    scores = np.round(scores) if draw(st.booleans()) else scores
    scores[rng.random(scores.shape) < 0.1] = np.nan
    return scores, member, rng.integers(7, 7 + draw(st.integers(2, 6)), size=models)


@settings(deadline=None, max_examples=40)
@given(fleets())
def test_each_threshold_is_the_best_on_all_other_groups(fleet: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, member, groups = fleet
    thresholds = shadow_thresholds(scores, member, groups[:, None] != groups)
    for model in range(len(scores)):
        pool = scores[groups != groups[model]]
        scored, inside = pool[~np.isnan(pool)], member[groups != groups[model]][~np.isnan(pool)]
        if not 0 < inside.sum() < len(inside):
            assert np.isnan(thresholds[model])
            continue
        gains = {t: (scored >= t)[inside].mean() - (scored >= t)[~inside].mean() for t in scored}
        assert gains[thresholds[model]] == pytest.approx(max(gains.values()))


def test_noise_shows_no_leakage_at_thresholds_of_others_but_in_hindsight() -> None:
    rng = np.random.default_rng(0)
    own, hindsight = [], []
    for _ in range(100):
        scores, member = rng.standard_normal((4, 60)), rng.random((4, 60)) < 0.5
        thresholds = shadow_thresholds(scores, member, ALL_OTHERS[:4, :4])
        rows = zip(scores, member, thresholds, strict=True)
        own += [Called.at(*row).balanced_accuracy().value for row in rows]
        hindsight += [accuracy_estimate(*row).value for row in zip(scores, member, strict=True)]
    assert np.mean(own) == pytest.approx(0.5, abs=0.01)
    assert np.mean(hindsight) > 0.55


def test_the_target_never_chooses_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    scores, member = rng.standard_normal((5, 200)), rng.random((5, 200)) < 0.5
    thresholds = shadow_thresholds(scores, member, ALL_OTHERS)
    scores[2], member[2] = 100 * rng.random(200), ~member[2]
    changed = shadow_thresholds(scores, member, ALL_OTHERS)
    assert changed[2] == thresholds[2]
    assert (np.delete(changed, 2) != np.delete(thresholds, 2)).any()


def test_a_score_of_the_target_is_no_threshold() -> None:
    member = np.array([[True, False], [True, False], [False, True]])
    scores = np.array([[9.0, 8.0], [0.0, 1.0], [3.0, 2.0]])  # members of the shadows score lower
    assert shadow_thresholds(scores, member, ALL_OTHERS[:3, :3])[0] in scores[1:]


def test_one_model_has_no_threshold() -> None:
    assert np.isnan(shadow_thresholds(np.array([[1.0, 0.0]]), np.array([[True, False]]), ALL_OTHERS[:1, :1])).all()
