"""Tied embeddings against autograd, record by record."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad, vmap

from palisade.defenses.dp_sgd.layers.tape import GRAM_ROUNDING_ULPS, Tape
from palisade.defenses.dp_sgd.layers.tied import tied_gradients

Layers = tuple[nn.Embedding, nn.Linear]


def tied(vocabulary: int, features: int, *, padding: int | None = None, bias: bool = True) -> Layers:
    embedding = nn.Embedding(vocabulary, features, padding_idx=padding)
    linear = nn.Linear(features, vocabulary, bias=bias)
    linear.weight = embedding.weight
    return embedding, linear


def alone(layers: Layers, of_embedding: Tape, of_linear: Tape) -> dict[str, Tensor]:
    """Every record's gradient (batch, ...), in double precision."""
    embedding, linear = layers
    trained = {"weight": embedding.weight.detach().double()}
    if linear.bias is not None and linear.bias.requires_grad:
        trained["bias"] = linear.bias.detach().double()

    def loss(parameters: dict[str, Tensor], calls: list[list[Tensor]]) -> Tensor:
        tokens, outer_embedding, inputs, outer = calls
        weight, total = parameters["weight"], torch.zeros((), dtype=torch.float64)
        for x, delta in zip(tokens, outer_embedding, strict=True):
            total = total + (F.embedding(x, weight, embedding.padding_idx) * delta).sum()
        for h, delta in zip(inputs, outer, strict=True):
            total = total + (F.linear(h, weight, parameters.get("bias")) * delta).sum()
        return total

    calls = [[x.double() if x.is_floating_point() else x for x in part] for part in (*of_embedding, *of_linear)]
    return vmap(grad(loss), in_dims=(None, 0))(trained, calls)


def reach(of_embedding: Tape, of_linear: Tape) -> Tensor:
    """The norm if nothing canceled."""
    looked_up = sum(delta.norm(dim=-1).view(len(delta), -1).sum(1) for delta in of_embedding[1])
    applied = sum(
        (h.norm(dim=-1) * delta.norm(dim=-1)).view(len(delta), -1).sum(1) for h, delta in zip(*of_linear, strict=True)
    )
    return looked_up + applied


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 4),
    vocabulary=st.integers(1, 40),
    features=st.integers(1, 9),
    places=st.lists(st.integers(0, 6), min_size=1, max_size=2),
    positions=st.lists(st.integers(0, 6), min_size=1, max_size=2),
    padding=st.none() | st.integers(0, 39),
    bias=st.sampled_from(["learning", "frozen", "none"]),
    int32=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_norms_and_sums(
    dtype: torch.dtype,
    tolerance: float,
    batch: int,
    vocabulary: int,
    features: int,
    places: list[int],
    positions: list[int],
    padding: int | None,
    bias: str,
    int32: bool,
    seed: int,
) -> None:
    """Of any number of calls, with a sequence (from 1 on) or without one (0)."""
    torch.manual_seed(seed)
    padding = None if padding is None else padding % vocabulary
    embedding, linear = (layer.to(dtype) for layer in tied(vocabulary, features, padding=padding, bias=bias != "none"))
    linear.weight = embedding.weight
    if bias == "frozen":
        linear.bias.requires_grad_(False)
    shapes = [(batch, *[length] * (length > 0)) for length in places]
    tokens = [torch.randint(vocabulary, shape, dtype=torch.int32 if int32 else torch.int64) for shape in shapes]
    of_embedding: Tape = (tokens, [torch.randn(*shape, features, dtype=dtype) for shape in shapes])
    shapes = [(batch, *[length] * (length > 0)) for length in positions]
    of_linear: Tape = (
        [torch.randn(*shape, features, dtype=dtype) for shape in shapes],
        [torch.randn(*shape, vocabulary, dtype=dtype) for shape in shapes],
    )
    expected = alone((embedding, linear), of_embedding, of_linear)
    squares, sums = tied_gradients(embedding, linear, of_embedding, of_linear)
    exact = torch.stack([gradient.flatten(1).square().sum(1) for gradient in expected.values()]).sum(0)
    assert squares.shape == (batch,) and squares.dtype == dtype
    assert ((squares - exact).abs() <= tolerance * (exact + reach(of_embedding, of_linear).square())).all()
    weights = torch.rand(batch, dtype=dtype)
    total = sums(weights)
    names = {embedding.weight: "weight", linear.bias: "bias"}
    assert {names[parameter] for parameter in total} == set(expected)
    for parameter, total_gradient in total.items():
        wanted = torch.einsum("b,b...->...", weights.double(), expected[names[parameter]])
        torch.testing.assert_close(total_gradient.double(), wanted, rtol=tolerance, atol=10 * tolerance)


def test_an_empty_batch() -> None:
    embedding, linear = tied(5, 3)
    tokens, features, outer = torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4, 3), torch.zeros(0, 4, 5)
    squares, sums = tied_gradients(embedding, linear, ([tokens], [features]), ([features], [outer]))
    assert squares.shape == (0,) and all(not total.any() for total in sums(squares).values())


@pytest.mark.parametrize(("of_places", "of_positions", "left"), [(0, 0, 1e-4), (1e5, 0, 1e-2), (0, 1e5, 1e-2)])
@pytest.mark.parametrize("vocabulary", [7, 2000])  # materialized, and by Gram matrices
def test_what_cancels_is_not_understated(vocabulary: int, of_places: float, of_positions: float, left: float) -> None:
    """Both layers' gradients are large and opposite, so that in single precision only rounding is left of the norm.

    One layer's own places cancel besides, two of which are `of_places` or `of_positions` in size.
    """
    torch.manual_seed(0)
    batch, length, features = 64, 6, 8
    embedding, linear = tied(vocabulary, features, bias=False)
    tokens = torch.randint(vocabulary, (batch, length))
    inputs, size = torch.randn(batch, length, features), torch.rand(batch, length, 1)
    apart = left * torch.randn(batch, length, features)
    outer = F.one_hot(tokens, vocabulary) * size
    same, to_and_fro = torch.randn(batch, 1, features).expand(-1, 2, -1), torch.tensor([1.0, -1.0]).view(2, 1)
    of_embedding = [tokens, tokens[:, [0, 0]]], [apart - size * inputs, of_places * to_and_fro * same]
    of_linear = [inputs, same], [outer, of_positions * to_and_fro * outer[:, [0, 0]]]
    squares, _ = tied_gradients(embedding, linear, of_embedding, of_linear)
    (exact,) = (
        gradient.flatten(1).square().sum(1) for gradient in alone((embedding, linear), of_embedding, of_linear).values()
    )
    slack = GRAM_ROUNDING_ULPS * torch.finfo(torch.float32).eps * reach(of_embedding, of_linear).square()
    assert (exact < 1e-6 * reach(of_embedding, of_linear).square()).all()
    assert (squares >= exact).all() and (squares <= exact + 4 * slack).all()


def test_a_tied_language_model_by_autograd() -> None:
    """Output gradients of a whole network, not numbers drawn at random."""
    torch.manual_seed(1)
    embedding, linear = tied(11, 6, padding=0)
    middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh()).requires_grad_(False)
    tokens = torch.randint(11, (5, 4))
    looked_up = embedding(tokens).detach().requires_grad_()
    inputs = middle(looked_up)
    logits = linear(inputs.detach().requires_grad_())
    (outer,) = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten(), reduction="sum"), logits
    )
    (outer_embedding,) = torch.autograd.grad(inputs, looked_up, outer @ linear.weight)
    squares, sums = tied_gradients(embedding, linear, ([tokens], [outer_embedding]), ([inputs.detach()], [outer]))
    for record in range(5):
        x = tokens[record : record + 1]
        loss = F.cross_entropy(linear(middle(embedding(x)))[0], x.roll(-1, 1)[0], reduction="sum")
        weight, bias = torch.autograd.grad(loss, (embedding.weight, linear.bias))
        one = F.one_hot(torch.tensor(record), 5).float()
        torch.testing.assert_close(sums(one)[embedding.weight], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sums(one)[linear.bias], bias, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(squares[record], weight.square().sum() + bias.square().sum(), rtol=1e-4, atol=0)
