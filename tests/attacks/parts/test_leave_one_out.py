import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks.parts import leave_one_out as leave_one_out_module
from palisade.attacks.parts.leave_one_out import leave_one_out, shadows, sums


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 7), st.sampled_from([0.0, 50.0]))
def test_moments_equal_a_loop_over_targets_and_records(seed: int, models: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    values = offset + rng.standard_normal((models, 4))
    side, groups = rng.random((models, 4)) < 0.5, rng.integers(models, size=models)
    moments = leave_one_out(values, side, groups[:, None] != groups)
    for target, record in np.ndindex(models, 4):
        shadows = values[side[:, record] & (groups != groups[target]), record]
        assert moments.count[target, record] == len(shadows)
        mean = shadows.mean() if len(shadows) else np.nan
        np.testing.assert_allclose(moments.mean[target, record], mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.squares[target, record], ((shadows - mean) ** 2).sum(), atol=1e-11)


def test_moments_of_a_target_do_not_depend_on_its_membership_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    values, side, others = rng.standard_normal((5, 40)), rng.random((5, 40)) < 0.5, ~np.eye(5, dtype=bool)
    flipped = side.copy()
    flipped[2] = ~side[2]
    before, after = leave_one_out(values, side, others), leave_one_out(values, flipped, others)
    for name in ("count", "mean", "squares"):
        np.testing.assert_array_equal(getattr(before, name)[2], getattr(after, name)[2])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(10, 40), st.integers(2, 9), st.booleans())
def test_sums_of_parts_equal_a_loop_over_targets(seed: int, models: int, part: int, leaves_out: bool) -> None:
    rng = np.random.default_rng(seed)
    values, groups = rng.standard_normal((models, 30)), rng.integers(1 + rng.integers(models), size=models)
    others = groups[:, None] != groups
    left_out = rng.integers(-1, models, size=(models, 30)).astype(np.int32) if leaves_out else None
    expected = [np.where(is_shadow, values, 0.0).sum(axis=0) for is_shadow in shadows(others, left_out)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(leave_one_out_module, "MODELS_PER_PART", part)
        patched.setattr(leave_one_out_module, "LEAST_IN_PARTS", 2)
        np.testing.assert_allclose(sums(values, others, left_out), expected, atol=1e-12)


def test_sums_of_parts_do_not_round_by_whoever_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of huge values that are never added nothing is left behind."""
    monkeypatch.setattr(leave_one_out_module, "MODELS_PER_PART", 4)
    monkeypatch.setattr(leave_one_out_module, "LEAST_IN_PARTS", 2)
    rng = np.random.default_rng(0)
    values, others = rng.standard_normal((20, 50)), ~np.eye(20, dtype=bool)
    left_out = rng.integers(20, size=(20, 50)).astype(np.int32)
    before = sums(values, others, left_out)
    for target in range(20):
        huge = values.copy()
        huge[target] = 1e30
        np.testing.assert_array_equal(sums(huge, others)[target], sums(values, others)[target])
        huge[left_out[target], np.arange(50)] = 1e30
        np.testing.assert_array_equal(sums(huge, others, left_out)[target], before[target])
