from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from palisade.targets import gradients
from palisade.targets.gradients import layer_norms, slopes
from palisade.targets.networks import CNN, MLP
from palisade.targets.transformer import Transformer

CLASS_COUNT = 3
NETWORKS_BY_NAME: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(shape=(5,), classes=CLASS_COUNT, hidden=[4, 4]),
    "cnn": lambda: CNN(shape=(1, 8, 8), classes=CLASS_COUNT, channels=[8]),
    "transformer": lambda: Transformer(shape=(6,), classes=CLASS_COUNT, buckets=10, width=8, depth=1, heads=2),
}


def random_case(name: str, records: int, seed: int = 0) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """A network with random weights, inputs and labels; one text has no word."""
    torch.manual_seed(seed)
    network, rng = NETWORKS_BY_NAME[name](), np.random.default_rng(seed)
    x = rng.standard_normal((records, *{"mlp": (5,), "cnn": (1, 8, 8)}.get(name, ()))).astype(np.float32)
    if name == "transformer":
        x = rng.integers(0, 10, size=(records, 6))
        x[0] = 0
    return network, x, rng.integers(CLASS_COUNT, size=records)


def loop(network: nn.Module, x: np.ndarray, y: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Each record's gradient, one backward pass at a time."""
    gradients = []
    for row, label in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
        network.zero_grad()
        F.cross_entropy(network(row[None]), label[None]).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    return gradients


@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
@settings(deadline=None, max_examples=3)
@given(records=st.integers(1, 9), seed=st.integers(0, 1000))
def test_norms_equal_those_of_single_backward_passes(name: str, records: int, seed: int) -> None:
    network, x, y = random_case(name, records, seed)
    layers = [layer for layer in network.modules() if list(layer.parameters(recurse=False))]
    outputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for layer in layers]
    network(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    names = {p: name for name, p in network.named_parameters()}
    expected = [
        [sum(float(of[names[p]].square().sum()) for p in layer.parameters(recurse=False)) ** 0.5 for layer in layers]
        for of in loop(network, x, y)
    ]
    norms = layer_norms(network, network.state_dict(), x, y)
    np.testing.assert_allclose(norms.gradients, expected, rtol=1e-3, atol=1e-6)
    assert norms.gradients.dtype == norms.activations.dtype == np.float32
    assert norms.activations.shape == (records, len(layers))
    by_call = torch.stack([output.flatten(1).norm(dim=1) for output in outputs], dim=1).detach().numpy()
    np.testing.assert_allclose(np.sort(norms.activations), np.sort(by_call), rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
def test_slopes_are_inner_products_with_the_gradients(name: str) -> None:
    network, x, y = random_case(name, 7)
    direction = {key: torch.randn_like(p) for key, p in network.named_parameters()}
    expected = [sum(float((of[key] * direction[key]).sum()) for key in of) for of in loop(network, x, y)]
    result = slopes(network, network.state_dict(), direction, x, y)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)
    assert result.dtype == np.float32


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, y = random_case("cnn", 11)
    state = direction = network.state_dict()
    whole = layer_norms(network, state, x, y), slopes(network, state, direction, x, y)
    monkeypatch.setattr(gradients, "CHUNK_RECORDS", 4)
    parts = layer_norms(network, state, x, y), slopes(network, state, direction, x, y)
    np.testing.assert_allclose(np.hstack(parts[0]), np.hstack(whole[0]), rtol=1e-5)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(gradients, "CHUNK_BYTES", 1)
    np.testing.assert_allclose(layer_norms(network, state, x[:3], y[:3]).gradients, whole[0].gradients[:3], rtol=1e-5)


def test_it_is_the_state_of_the_argument_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, CLASS_COUNT))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4)).astype(np.float32), rng.integers(CLASS_COUNT, size=6)
    expected = layer_norms(network, state, x, y)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    network.train()
    for norms, wanted in zip(layer_norms(network, state, x, y), expected, strict=True):
        np.testing.assert_array_equal(norms, wanted)
    assert expected.gradients.shape == (6, 3) and (expected.gradients[:, 0] > 0).all()


class Tied(nn.Module):
    """A layer that stands in two places, and another that borrows its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.head = nn.Linear(4, CLASS_COUNT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tied(self.again(self.first(x).tanh()).tanh()))


def test_shared_weights_count_once() -> None:
    network, rng = Tied(), np.random.default_rng(0)
    x, y = rng.standard_normal((5, 4)).astype(np.float32), rng.integers(CLASS_COUNT, size=5)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state = network.state_dict()
    norms = [layer_norms(network, state, x, y) for _ in range(2)][1]
    slope = slopes(network, state, direction, x, y)
    alone = loop(network, x, y)
    assert norms.gradients.shape == (5, 3)
    squares = [sum(float(value.square().sum()) for value in of.values()) for of in alone]
    np.testing.assert_allclose((norms.gradients**2).sum(axis=1), squares, rtol=1e-4)
    expected = [sum(float((of[name] * direction[name]).sum()) for name in of) for of in alone]
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5)
    first = network.first(torch.from_numpy(x))
    calls = torch.cat([first, network.first(first.tanh())], dim=1).norm(dim=1).detach().numpy()
    np.testing.assert_allclose(norms.activations[:, 0], calls, rtol=1e-5)
