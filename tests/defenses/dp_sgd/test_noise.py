"""Noise by counters, plain and made of sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from test_callback import SECRET, fit

from defenses.dp_sgd import DPSGD
from defenses.dp_sgd.noise import NoiseSource


def drawn(secure: bool, count: int = 100_000, **settings: int) -> np.ndarray:
    out = np.empty(count, dtype=np.float32)
    NoiseSource(secret=SECRET, secure=secure).fill(out, **{"model": 2, "step": 3, **settings}, scale=0.5)
    return out


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_standard_deviation_asked_for(secure: bool) -> None:
    values = drawn(secure) / 0.5
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], len(values))
    assert low < float((values.astype(np.float64) ** 2).sum()) < high
    assert stats.kstest(values, "norm").pvalue > 1e-4


@pytest.mark.parametrize("secure", [False, True])
def test_noise_is_a_function_of_secret_model_and_step(secure: bool) -> None:
    assert np.array_equal(drawn(secure), drawn(secure))
    for other in (drawn(secure, model=1), drawn(secure, step=4)):
        assert abs(np.corrcoef(drawn(secure), other)[0, 1]) < 0.02


@pytest.mark.filterwarnings("ignore")
def test_the_statement_says_which() -> None:
    plain, secure = DPSGD(noise_multiplier=1.0), DPSGD(noise_multiplier=1.0, secure_rng=True)
    fit(plain, max_epochs=1)
    fit(secure, max_epochs=1)
    assert plain.statement.noise == "ChaCha20 keystream, Box-Muller"
    assert secure.statement.noise == "ChaCha20 keystream, sums of four Gaussians (secure_rng)"
