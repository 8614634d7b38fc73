"""Noise by counters, plain and made of sums."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from test_callback import TEST_SECRET, fit

from palisade.defenses.dp_sgd import DPSGD, callback
from palisade.defenses.dp_sgd.noise import NoiseSource, ParameterNoise


def drawn(secure: bool, count: int = 100_000, **settings: int) -> np.ndarray:
    out = np.empty(count, dtype=np.float32)
    NoiseSource(secret=TEST_SECRET, secure=secure).fill(out, **{"model": 2, "step": 3, **settings}, scale=0.5)
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


# One draw for all parameters of a model.


def parameters(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.zeros(shape) for shape in shapes]


def source(secure: bool = False) -> NoiseSource:
    return NoiseSource(secret=TEST_SECRET, secure=secure)


def draws(noise: ParameterNoise, steps: list[int], **settings: Any) -> list[torch.Tensor]:
    """Flat, of every step."""
    usual = {"sources": [source()], "models": [2], "scales": [0.5]}
    drawn = (noise.draw(**{**usual, **settings}, step=step) for step in steps)
    return [torch.cat([part.reshape(-1) for part in parts]).clone() for parts in drawn]


def test_parameters_get_parts_of_one_draw_that_have_nothing_in_common() -> None:
    (one,) = draws(ParameterNoise(parameters((200, 300), (60_000,)), stacked=False), [5])
    assert float(one.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(one[:60_000], one[60_000:])[0, 1]) < 0.02


def test_odd_numbers_of_values_and_none() -> None:
    assert [len(each) for each in draws(ParameterNoise(parameters((3,), ()), stacked=False), [0, 1])] == [4, 4]
    (odd,) = draws(ParameterNoise(parameters((3,)), stacked=False), [0])
    assert torch.equal(odd, draws(ParameterNoise(parameters((3,), ()), stacked=False), [0])[0][:3])


def test_same_noise_alone_and_in_a_stack() -> None:
    weight, bias = torch.zeros(3, 5, 4), torch.zeros(3, 6)
    stacked = ParameterNoise([weight, bias], stacked=True, transposed={weight})
    alone = ParameterNoise(parameters((4, 5), (6,)), stacked=False)
    together = stacked.draw([source()] * 3, models=[2, 7, 9], step=5, scales=[1.0, 0.5, 2.0])
    assert [part.shape for part in together] == [weight.shape, bias.shape]
    for place, (model, scale) in enumerate([(2, 1.0), (7, 0.5), (9, 2.0)]):
        one = alone.draw([source()], models=[model], step=5, scales=[scale])
        assert torch.equal(together[0][place].mT, one[0]) and torch.equal(together[1][place], one[1])


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("steps", [[0, 1, 2, 3], [5, 6, 9, 10, 2], [3, 3, 4, 3]])
def test_noise_drawn_ahead_is_that_drawn_in_place(secure: bool, steps: list[int]) -> None:
    """To the last bit, whatever step comes next."""
    shapes = [(40, 30), (7,)]
    settings = {"sources": [source(secure)]}
    ahead = ParameterNoise(parameters(*shapes), stacked=False, ahead=True)
    expected = draws(ParameterNoise(parameters(*shapes), stacked=False), steps, **settings)
    for one, other in zip(expected, draws(ahead, steps, **settings), strict=True):
        assert torch.equal(one, other)
    ahead.close()


def test_noise_drawn_ahead_for_another_scale_is_not_used() -> None:
    ahead, plain = (ParameterNoise(parameters((50,)), stacked=False, ahead=ahead) for ahead in (True, False))
    for step, scale in enumerate([1.0, 0.8, 0.8, 3.0]):
        (one,), (other,) = (draws(noise, [step], scales=[scale]) for noise in (ahead, plain))
        assert torch.equal(one, other)
    ahead.close()


def test_what_was_drawn_stays_while_the_next_is_drawn() -> None:
    ahead = ParameterNoise(parameters((100_000,)), stacked=False, ahead=True)
    (one,) = ahead.draw([source()], models=[0], step=0, scales=[1.0])
    before = one.clone()
    ahead.close()  # waits for the thread
    assert torch.equal(one, before)


@pytest.mark.filterwarnings("ignore")
def test_the_thread_ends_with_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that draws ahead is, to the last bit, one that does not."""
    weights = []
    for idle in (True, False):
        monkeypatch.setattr(callback, "core_is_idle", lambda idle=idle: idle)
        weights.append(
            torch.cat([p.flatten() for p in fit(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)).parameters()])
        )
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("noise")]
    assert torch.equal(*weights)
