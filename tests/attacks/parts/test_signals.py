import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from palisade.attacks.parts.signals import MIN_PROBABILITY, log_odds_of_logits, log_odds_of_probabilities


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([0.1, 1.0, 30.0]))
def test_both_formulas_agree_with_their_definition(seed: int, classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    z, y = scale * rng.standard_normal((7, classes)), rng.integers(classes, size=7)
    expected = [z[i, y[i]] - logsumexp(np.delete(z[i], y[i])) for i in range(7)]
    np.testing.assert_allclose(log_odds_of_logits(z, y), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        log_odds_of_probabilities(softmax(z, axis=1), y),
        np.clip(expected, np.log(MIN_PROBABILITY), -np.log(MIN_PROBABILITY)),
        atol=1e-9,
    )


def test_float32_probabilities_of_a_fitted_record_keep_their_log_odds() -> None:
    z = np.array([[20.0, 0.0, 1.0], [60.0, 0.0, 1.0]])
    p = softmax(z, axis=1).astype(np.float32)
    assert (p[:, 0] == 1).all(), "log(p / (1 − p)) would be infinite here"
    np.testing.assert_allclose(log_odds_of_probabilities(p, np.zeros(2, int)), log_odds_of_logits(z, [0, 0]), rtol=1e-6)


def test_probabilities_rounded_to_zero_stay_finite() -> None:
    phi = log_odds_of_probabilities(np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2, int))
    assert np.isfinite(phi).all()
    assert phi[0] == -phi[1] > 100


def test_huge_logits_do_not_overflow() -> None:
    assert log_odds_of_logits(np.array([[1e4, -1e4, 0.0]], dtype=np.float32), np.array([0]))[0] == pytest.approx(1e4)
