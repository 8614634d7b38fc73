"""Shapes, and what a network refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from palisade.targets.networks import CNN, MLP


def test_mlp_without_hidden_layers_is_linear():
    network = MLP(shape=(2, 3), classes=4)
    assert [type(layer) for layer in network] == [nn.Linear]
    assert network(torch.zeros(5, 2, 3)).shape == (5, 4)


def test_cnn_has_no_layer_that_mixes_records():
    network = CNN(shape=(3, 13, 9), classes=5, channels=[8, 12])
    x = torch.randn(6, 3, 13, 9)
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]))
    assert network(x).shape == (6, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MLP(shape=(3,), classes=2, hidden=[4, 0]),
            r"network.hidden=\[4, 0\]: expected a list, each an integer >= 1; ",
        ),
        (lambda: MLP(shape=(3,), classes=2, activation="sin"), "network.activation=sin: expected one of relu"),
        (lambda: CNN(shape=(3,), classes=2), r"network=cnn: expected records of shape .* not \(3,\); use mlp"),
        (lambda: CNN(shape=(1, 4, 4), classes=2, channels=[8, 8, 8]), "=.8, 8, 8.: expected at most 2 blocks, "),
    ],
)
def test_refusals_name_value_rule_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
