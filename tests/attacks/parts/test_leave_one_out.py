import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks.parts.leave_one_out import leave_one_out


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
