"""A stack computes what its models compute."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palisade.targets.networks import CNN, MLP
from palisade.targets.stacks import stack, transposed, unstack, unstackable
from palisade.targets.training import MODELS_PER_STACK, at_once
from palisade.targets.transformer import Transformer


def check(networks: list[nn.Module], x: Tensor) -> None:
    """Outputs and gradients, double precision."""
    stacked = stack(networks)
    outputs = stacked(x)
    outputs.square().sum().backward()
    turned = transposed(stacked)
    gradients = {name: p.grad.mT if p in turned else p.grad for name, p in stacked.named_parameters()}
    for k, network in enumerate(networks):
        alone = network(x[k])
        torch.testing.assert_close(outputs[k], alone)
        alone.square().sum().backward()
        for name, p in network.named_parameters():
            torch.testing.assert_close(gradients[name][k], p.grad)


@settings(deadline=None, max_examples=25)
@given(
    models=st.integers(1, 5),
    records=st.integers(0, 7),
    shape=st.sampled_from([(3,), (2, 2), (1, 4, 2)]),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    activation=st.sampled_from(["relu", "tanh", "gelu", "silu"]),
)
def test_stack_of_mlps(models, records, shape, hidden, activation):
    networks = [MLP(shape=shape, classes=4, hidden=hidden, activation=activation).double() for _ in range(models)]
    check(networks, torch.randn(models, records, *shape, dtype=torch.float64))


@settings(deadline=None, max_examples=10)
@given(models=st.integers(1, 3), records=st.integers(0, 3), channels=st.lists(st.sampled_from([4, 16]), max_size=2))
def test_stack_of_cnns(models, records, channels):
    networks = [CNN(shape=(2, 5, 6), classes=3, channels=channels).double() for _ in range(models)]
    check(networks, torch.randn(models, records, 2, 5, 6, dtype=torch.float64))


@pytest.mark.parametrize("depth", [0, 2])
def test_stack_of_transformers(depth):
    networks = [Transformer(shape=(5,), classes=3, buckets=7, width=8, depth=depth).double() for _ in range(3)]
    check(networks, torch.randint(0, 7, (3, 4, 5)))


class Reused(nn.Module):
    """A layer that stands in two places, between functions that take any number of leading axes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(6)
        self.parts = nn.Sequential(nn.Linear(6, 6, bias=False), self.norm, nn.Linear(6, 6), self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x).cos()


LAYERS_BY_NAME: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution in one dimension": (lambda: nn.Conv1d(2, 4, 3, stride=2, groups=2, padding_mode="circular"), (2, 8)),
    "convolution in three": (lambda: nn.Conv3d(1, 2, 2, padding="same", bias=False), (1, 3, 3, 3)),
    "dilated convolution": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2, padding_mode="reflect"), (2, 6, 6)),
    "layer norm": (lambda: nn.LayerNorm([3, 4], bias=False), (2, 3, 4)),
    "layer norm without weights": (lambda: nn.LayerNorm(4, elementwise_affine=False), (3, 4)),
    "instance norm": (lambda: nn.InstanceNorm1d(3, affine=True), (3, 5)),
    "linear of a sequence": (lambda: nn.Linear(4, 3), (2, 5, 4)),
    "pooling": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten()), (3, 8, 8)),
    "shapes": (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 2)), nn.AdaptiveAvgPool1d(1)), (2, 3)),
    "reused": (Reused, (6,)),
}


@pytest.mark.parametrize("name", LAYERS_BY_NAME)
def test_stack_of_layers(name):
    make, shape = LAYERS_BY_NAME[name]
    networks = [nn.Sequential(make(), nn.Tanh(), nn.Identity()).double() for _ in range(3)]
    check(networks, torch.randn(3, 4, *shape, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(shape=(3,), classes=2, hidden=[4]),
        lambda: CNN(shape=(1, 8, 8), classes=2, channels=[8, 16]),
        lambda: Transformer(shape=(5,), classes=2, buckets=9, width=8),
        Reused,
    ],
)
def test_state_names_stay_and_models_come_out_again(make):
    networks = [make() for _ in range(3)]
    stacked = stack(networks)
    assert [name for name, _ in stacked.named_parameters()] == [name for name, _ in networks[0].named_parameters()]
    for network, alone in zip(networks, unstack(stacked), strict=True):
        assert list(alone) == list(network.state_dict())
        assert all(torch.equal(value, alone[name]) for name, value in network.state_dict().items())
        assert all(value.is_contiguous() for value in alone.values())  # as safetensors asks for


def test_padding_is_not_learnt_and_frozen_parameters_stay_frozen():
    networks = [nn.Sequential(nn.Embedding(4, 3, padding_idx=1), nn.Linear(3, 2), nn.Conv1d(5, 1, 1)) for _ in range(2)]
    for network in networks:
        network[1].weight.requires_grad_(False)
        network[2].bias.requires_grad_(False)
        network[2].eval()
    stacked = stack(networks)
    assert [p.requires_grad for p in stacked.parameters()] == [p.requires_grad for p in networks[0].parameters()]
    assert [layer.training for layer in stacked] == [True, True, False]
    stacked(torch.randint(0, 4, (2, 6, 5))).sum().backward()
    assert torch.equal(stacked[0].weight.grad[:, 1], torch.zeros(2, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1 (BatchNorm1d)"),
        (nn.Sequential(nn.Dropout()), "0 (Dropout)"),
        (nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), "0 (Embedding)"),
        (nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True)), "0 (InstanceNorm1d)"),
        (nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))), "0 (Linear)"),
        (nn.Sequential(Doubled(2, 2)), "0 (Doubled)"),
        (Tied(), "two (Linear)"),
        (Shift(), "itself (Shift)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layer_without_a_stacked_form_is_named(network, layer):
    assert unstackable(network) == layer
    with pytest.raises(ValueError) as error:
        stack([network, network])
    assert str(error.value) == f"fleet.at_once=2: expected 1, since layer {layer} has no stacked form; set it"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLP(shape=(3,), classes=2, hidden=[4]), MODELS_PER_STACK),
        (MLP(shape=(1000,), classes=2, hidden=[400]), 1),
        (CNN(shape=(1, 8, 8), classes=2, channels=[8]), 1),
        (Transformer(shape=(5,), classes=2, buckets=9, width=8), 1),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2)), 1),
    ],
    ids=["mlp", "large", "cnn", "transformer", "dropout"],
)
def test_auto_stacks_where_that_is_faster(network, expected):
    fitter = SimpleNamespace(
        models=[0], initial_network=lambda _: network, defense=SimpleNamespace(stackable=True), settled={}
    )
    assert at_once("auto", fitter) == expected
    assert at_once(3, fitter) == 3
