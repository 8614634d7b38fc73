"""A stack computes what its models compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.networks import CNN, MLP
from targets.stacks import stack, transposed, unstack


@settings(deadline=None, max_examples=25)
@given(
    models=st.integers(1, 5),
    records=st.integers(0, 7),
    shape=st.sampled_from([(3,), (2, 2), (1, 4, 2)]),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    activation=st.sampled_from(["relu", "tanh", "gelu", "silu"]),
)
def test_stacked_outputs_and_gradients_equal_those_of_each_model(models, records, shape, hidden, activation):
    networks = [MLP(shape=shape, classes=4, hidden=hidden, activation=activation).double() for _ in range(models)]
    stacked = stack(networks)
    x = torch.randn(models, records, *shape, dtype=torch.float64)
    outputs = stacked(x)
    assert outputs.shape == (models, records, 4)
    outputs.square().sum().backward()
    turned = transposed(stacked)
    gradients = {name: p.grad.mT if p in turned else p.grad for name, p in stacked.named_parameters()}
    for k, network in enumerate(networks):
        alone = network(x[k])
        torch.testing.assert_close(outputs[k], alone)
        alone.square().sum().backward()
        for name, p in network.named_parameters():
            torch.testing.assert_close(gradients[name][k], p.grad)


def test_state_names_stay_and_models_come_out_again():
    networks = [MLP(shape=(3,), classes=2, hidden=[4]) for _ in range(3)]
    stacked = stack(networks)
    assert list(stacked.state_dict()) == list(networks[0].state_dict())
    for network, alone in zip(networks, unstack(stacked), strict=True):
        assert all(torch.equal(value, alone[name]) for name, value in network.state_dict().items())
        assert all(value.is_contiguous() for value in alone.values())  # as safetensors asks for


def test_layer_without_a_stacked_form_is_named():
    networks = [CNN(shape=(1, 8, 8), classes=2, channels=[8]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"at_once=2: layer 0 \(Conv2d\) has no stacked form; use fleet.at_once=1"):
        stack(networks)
