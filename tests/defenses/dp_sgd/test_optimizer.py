"""Noise: same for a model alone and in a stack, independent between parameters, scaled by q·N."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.secret import Secret
from defenses.dp_sgd.noise import NoiseSource
from defenses.dp_sgd.optimizer import NoisyOptimizer

SECRET = Secret.from_text("test")


def noisy(
    shapes: list[tuple[int, ...]],
    models: list[int] | None,
    turned: int | None = None,
    dtype: Any = torch.float32,
    sigma: float = 2.0,
) -> list[nn.Parameter]:
    """Parameters after one step of SGD with learning rate 1 on zero sums."""
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    optimizer = NoisyOptimizer(
        torch.optim.SGD(parameters, lr=1.0),
        expected_batch_size=4.0,
        models=models and len(models),
        transposed=() if turned is None else {parameters[turned]},
    )
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.hold()
    source = NoiseSource(secret=SECRET, secure=False)
    optimizer.noise = [functools.partial(source.fill, model=k, step=5, scale=sigma * 0.5) for k in models or [7]]
    optimizer.step()
    return parameters


def test_standard_deviation_is_sigma_times_c_over_expected_batch_size() -> None:
    one, other = noisy([(200, 300), (60_000,)], None)
    assert np.std(one.detach().numpy()) == pytest.approx(2.0 * 0.5 / 4, rel=0.02)
    both = np.corrcoef(one.detach().flatten(), other.detach())
    assert abs(both[0, 1]) < 0.02


def test_same_noise_alone_and_in_a_stack() -> None:
    weight, bias = noisy([(3, 5, 4), (3, 6)], [2, 7, 9], turned=0)
    alone = noisy([(4, 5), (6,)], None)
    for whole, single in zip([weight.mT, bias], alone, strict=True):
        assert torch.equal(whole[1], single)
        assert not torch.equal(whole[0], single)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_other_precision_get_the_same_noise(dtype: torch.dtype) -> None:
    (plain,), (other,) = noisy([(5,)], None), noisy([(5,)], None, dtype=dtype)
    assert other.dtype == dtype and other.abs().min() > 0
    torch.testing.assert_close(other.float(), plain, rtol=1e-2, atol=0)


def test_refuses_to_step_without_clipped_gradients() -> None:
    optimizer = NoisyOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=1.0), expected_batch_size=1.0)
    with pytest.raises(ValueError, match=r"found no clipped gradients; call self.manual_backward\(loss\) before it"):
        optimizer.step()


@pytest.mark.parametrize("change", [lambda p: p.grad.mul_(2), lambda p: setattr(p, "grad", p.grad * 2)])
def test_refuses_gradients_changed_after_clipping(change: Any) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = NoisyOptimizer(torch.optim.SGD([parameter], lr=1.0), expected_batch_size=1.0)
    parameter.grad = torch.ones(3)
    optimizer.hold()
    change(parameter)
    with pytest.raises(ValueError, match="gradients were changed after clipping and before the noise; remove what"):
        optimizer.step()


def test_zero_grad_leaves_no_gradient_that_might_not_be_clipped() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = NoisyOptimizer(torch.optim.SGD([parameter], lr=1.0), expected_batch_size=1.0)
    parameter.grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert parameter.grad is None
    assert optimizer.release() is optimizer.original_optimizer and not hasattr(parameter, "summed_grad")
