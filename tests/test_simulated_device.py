"""The simulated device refuses what CUDA refuses, and counts what costs time on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from simulated_device import SIMULATED_DEVICE, counting
from torch import nn

from palisade.targets.stacks import unstack


def test_values_are_those_of_the_cpu():
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    expected = layer(x)
    expected.square().sum().backward()
    gradient = layer.weight.grad
    layer.weight.grad = None
    layer.to(SIMULATED_DEVICE)
    there = layer(x.to(SIMULATED_DEVICE))
    assert there.device == SIMULATED_DEVICE and torch.equal(there.detach().cpu(), expected.detach())
    there.square().sum().backward()
    assert layer.weight.grad.device == SIMULATED_DEVICE and torch.equal(layer.weight.grad.cpu(), gradient)


@pytest.mark.parametrize("activation", ["silu", "mish"])
def test_operators_that_the_cpu_does_in_one_stay_whole(activation):
    torch.manual_seed(0)
    x, gradients = torch.randn(400), []
    for place in ("cpu", SIMULATED_DEVICE):
        inputs = x.detach().to(place).requires_grad_()
        getattr(nn.functional, activation)(inputs).sum().backward()
        gradients.append(inputs.grad.cpu())
    assert torch.equal(*gradients)


def test_shapes_that_change_in_place_are_seen():
    there = torch.ones(3, 2).to(SIMULATED_DEVICE)
    assert there.unsqueeze_(1).shape == (3, 1, 2) and there.squeeze_().shape == (3, 2) and there.t_().shape == (2, 3)
    assert (there + torch.ones(2, 3).to(SIMULATED_DEVICE)).shape == (2, 3)


def test_tensors_in_two_places_are_refused():
    here, there = torch.ones(3), torch.ones(3).to(SIMULATED_DEVICE)
    for mix in (
        lambda: here + there,
        lambda: there.add_(here),
        lambda: torch.where(there > 0, there, here),
        lambda: torch._foreach_add_([there], [here]),
        lambda: here[there.long()],
        lambda: torch.cat([here, there]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    assert torch.equal((there + torch.tensor(1.0)).cpu(), here + 1)  # a number may be anywhere


def test_numpy_is_refused():
    there = torch.ones(3).to(SIMULATED_DEVICE)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(3, device=SIMULATED_DEVICE),
        lambda: torch.zeros(3, device=SIMULATED_DEVICE).uniform_(),
        lambda: torch.rand_like(torch.zeros(3, device=SIMULATED_DEVICE)),
        lambda: nn.functional.dropout(torch.ones(3, device=SIMULATED_DEVICE), 0.5, training=True),
        lambda: torch.bernoulli(torch.full((3,), 0.5, device=SIMULATED_DEVICE)),
    ],
)
def test_random_operators_are_refused(draw):
    with pytest.raises(RuntimeError, match="random"):
        draw()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda x: x + 1, {"kernel": 1}),
        (lambda x: x.view(3, 2).mT, {}),
        (lambda x: x.cpu(), {"device_to_host": 1}),
        (lambda x: x.copy_(torch.zeros(6)), {"host_to_device": 1}),
        (lambda x: torch.zeros(6).copy_(x), {"device_to_host": 1}),
        (lambda x: torch.arange(6).to(SIMULATED_DEVICE), {"host_to_device": 1}),
        (lambda x: torch.tensor([1.0, 2.0], device=SIMULATED_DEVICE), {"host_to_device": 1}),
        (lambda x: x[0].item(), {"synchronization": 1}),
        (lambda x: bool((x > 0).all()), {"kernel": 2, "synchronization": 1}),
        (lambda x: x[x > 0], {"kernel": 2, "synchronization": 1}),
        (lambda x: x[torch.tensor([0, 1])], {"kernel": 1, "host_to_device": 1}),
        (lambda x: x.nonzero(), {"kernel": 1, "synchronization": 1}),
        (lambda x: torch.equal(x, x), {"synchronization": 1}),
        (lambda x: x.tolist(), {"device_to_host": 1}),
        (lambda x: torch._foreach_add_([x, x.view(6)], [x, x]), {"kernel": 1}),
    ],
)
def test_counts(act, expected):
    x = torch.arange(6.0).to(SIMULATED_DEVICE)
    with counting() as costs:
        act(x)
    assert dict(costs.total) == expected


def test_a_cost_names_the_line_of_the_project_that_caused_it():
    network = nn.Module()
    network.weight = nn.Parameter(torch.ones(2, 3).to(SIMULATED_DEVICE))
    with counting() as costs:
        unstack(network)
    assert costs.total["kernel"] == 2
    assert costs.by_line("kernel").strip().startswith("2 targets/stacks/stacking.py:")
