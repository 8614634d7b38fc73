"""Norms and sums of per-record gradients against autograd, record by record, and against Opacus."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.layers.dp_rnn import RNNLinear
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers import gradients
from palisade.defenses.dp_sgd.layers.tape import ghost_norms
from palisade.targets.stacks import StackedLinear, stack
from palisade.targets.standardization import StandardizedConv2d

pytestmark = pytest.mark.usefixtures("double")
CLIP_NORM = 0.7
STACK_MODELS = 2
Make = Callable[[], nn.Module]


def alone(layer: nn.Module, inputs: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Every record's gradient, from a forward and a backward pass of its own."""
    trained = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    by_record = []
    for i in range(len(deltas[0])):
        total = sum((layer(x[i : i + 1]) * delta[i : i + 1]).sum() for x, delta in zip(inputs, deltas, strict=True))
        by_record.append(dict(zip(trained, torch.autograd.grad(total, list(trained.values())), strict=True)))
    return by_record


def noted(layer: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Output gradients of some shape that the layer's outputs have."""
    return [torch.randn_like(layer(x).detach()) for x in inputs]


def agree(layer: nn.Module, squares: Tensor, sums: dict[nn.Parameter, Tensor], weights: Tensor, expected: Any) -> None:
    """Compares one model's norms and sums, by parameter name, with those of its records."""
    norms = [sum(g.square().sum() for g in record.values()) for record in expected]
    torch.testing.assert_close(squares, torch.stack(norms) if norms else squares.new_zeros(0))
    trained = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    assert set(sums) == set(trained)
    for name, parameter in trained.items():
        total = sum(
            (w * record[name] for w, record in zip(weights, expected, strict=True)), torch.zeros_like(parameter)
        )
        torch.testing.assert_close(sums[name], total)


def check(make: Make, inputs: Sequence[Tensor]) -> None:
    """One layer and a stack of two, whose calls are `inputs` of shape (models, batch, ...)."""
    layers = [make() for _ in range(STACK_MODELS)]
    deltas = [torch.stack([noted(layer, [x[k]])[0] for k, layer in enumerate(layers)]) for x in inputs]
    weights = torch.rand(inputs[0].shape[:2])
    stacked = stack([nn.Sequential(layer) for layer in layers])[0]
    all_squares, all_sums = gradients(stacked, True)(stacked, (list(inputs), deltas))
    turned = {
        p: total.mT if p is stacked.weight and isinstance(stacked, StackedLinear) else total
        for p, total in all_sums(weights).items()
    }
    for k, layer in enumerate(layers):
        calls = [x[k] for x in inputs], [delta[k] for delta in deltas]
        expected = alone(layer, *calls)
        squares, sums = gradients(layer, False)(layer, calls)
        names = {parameter: name for name, parameter in layer.named_parameters()}
        agree(layer, squares, {names[p]: total for p, total in sums(weights[k]).items()}, weights[k], expected)
        names = {parameter: name for name, parameter in stacked.named_parameters()}
        agree(layer, all_squares[k], {names[p]: total[k] for p, total in turned.items()}, weights[k], expected)


def strided(*shape: int, calls: int) -> list[Tensor]:
    """Inputs that lie between one another in memory, as the copies of a record do."""
    return list(torch.randn(*shape[:2], calls, *shape[2:]).unbind(2))


batches = st.integers(0, 3)
few = st.integers(1, 3)


paths = pytest.mark.parametrize("gram_cost", [0, 4, 1e9], ids=["ghost", "chosen", "materialized"])


@paths
@settings(deadline=None, max_examples=25)
@given(
    batch=batches,
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    positions=st.lists(few, max_size=2),
    calls=few,
    bias=st.booleans(),
)
def test_linear(
    gram_cost: float, batch: int, inputs: int, outputs: int, positions: list[int], calls: int, bias: bool
) -> None:
    x = strided(STACK_MODELS, batch, *positions, inputs, calls=calls)
    if calls == 2:
        x.append(torch.randn(STACK_MODELS, batch, 2, inputs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palisade.defenses.dp_sgd.layers.tape.GRAM_COST", gram_cost)
        check(lambda: nn.Linear(inputs, outputs, bias=bias), x)


@paths
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_convolution(gram_cost: float, data: st.DataObject) -> None:
    def draw(strategy: st.SearchStrategy[Any]) -> Any:
        return data.draw(strategy)

    dimensions = draw(st.integers(1, 2))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups, kernel, dilation = draw(st.integers(1, 2)), per_axis(1, 3), per_axis(1, 2)
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.just(per_axis(0, 2))))
    mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
    stride = (1,) * dimensions if padding == "same" else per_axis(1, 3)
    bias, frozen = draw(st.booleans()), draw(st.sampled_from(["", "bias", "weight"]))

    def make() -> nn.Module:
        settings = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
        single = nn.Conv1d if dimensions == 1 else nn.Conv2d
        layer = single(inputs, outputs, kernel, groups=groups, bias=bias, **settings)
        if (frozen == "bias" and bias) or (frozen == "weight" and bias):
            getattr(layer, frozen).requires_grad_(False)
        return layer

    batch, space = draw(batches), per_axis(5, 7)
    if draw(st.booleans()):
        x = strided(STACK_MODELS, batch, inputs, *space, calls=2)
    else:
        x = [
            torch.randn(STACK_MODELS, batch, inputs, *space),
            torch.randn(STACK_MODELS, batch, inputs, *[n + 1 for n in space]),
        ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palisade.defenses.dp_sgd.layers.tape.GRAM_COST", gram_cost)
        check(make, x)


@paths
@settings(deadline=None, max_examples=25)
@given(
    batch=batches,
    groups=st.integers(1, 2),
    inputs=few,
    outputs=few,
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 2)]),
    stride=st.integers(1, 2),
    calls=few,
    bias=st.booleans(),
    frozen=st.sampled_from(["", "weight", "gain"]),
    tiny=st.booleans(),
)
def test_standardized_convolution(
    gram_cost: float, batch: int, groups: int, inputs: int, outputs: int, kernel: tuple[int, int], stride: int,
    calls: int, bias: bool, frozen: str, tiny: bool,
) -> None:  # fmt: skip
    def make() -> nn.Module:
        layer = StandardizedConv2d(
            groups * inputs, groups * outputs, kernel, stride=stride, padding=1, groups=groups, bias=bias
        )
        nn.init.normal_(layer.gain)
        if tiny:  # the norm of some filters is below that which they are divided by at least
            layer.weight.data[0] *= 1e-3
        if frozen:
            getattr(layer, frozen).requires_grad_(False)
        return layer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palisade.defenses.dp_sgd.layers.tape.GRAM_COST", gram_cost)
        check(make, strided(STACK_MODELS, batch, groups * inputs, 5, 6, calls=calls))


def test_standardization_leaves_no_mean_and_the_norm_of_the_gain() -> None:
    layer = StandardizedConv2d(3, 4, 3, padding=1, bias=False)
    nn.init.uniform_(layer.gain, 0.5, 2.0)
    x = torch.randn(2, 3, 5, 5)
    filters = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    filters = layer.gain.view(-1, 1, 1, 1) * filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, filters, padding=1))
    with torch.no_grad():
        before, _ = layer(x), layer.weight.mul_(7).add_(3)
        torch.testing.assert_close(layer(x), before)


def test_convolution_in_three_dimensions() -> None:
    check(
        lambda: nn.Conv3d(2, 3, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1)),
        [torch.randn(STACK_MODELS, 2, 2, 4, 3, 4)],
    )


@settings(deadline=None, max_examples=40)
@given(
    batch=batches,
    tokens=st.integers(1, 5),
    width=few,
    positions=st.lists(st.integers(0, 4), max_size=2),
    padding=st.one_of(st.none(), st.just(-1), st.just(0)),
    calls=few,
)
def test_embedding(batch: int, tokens: int, width: int, positions: list[int], padding: int | None, calls: int) -> None:
    x = torch.randint(0, tokens, (STACK_MODELS, batch, calls, *positions)).unbind(2)
    check(
        lambda: nn.Embedding(tokens, width, padding_idx=padding),
        [*x, torch.randint(0, tokens, (STACK_MODELS, batch, 3))],
    )


@settings(deadline=None, max_examples=60)
@given(
    batch=batches,
    channels=st.sampled_from([2, 4]),
    space=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    kind=st.sampled_from(["layer", "rms", "group", "instance"]),
    axes=st.integers(1, 2),
    bias=st.booleans(),
    calls=few,
    frozen=st.booleans(),
)
def test_norms(
    batch: int, channels: int, space: list[int], kind: str, axes: int, bias: bool, calls: int, frozen: bool
) -> None:
    assume(batch > 0 or kind != "instance")  # torch itself has no instance norm of an empty batch

    def make() -> nn.Module:
        if kind in ("layer", "rms"):
            shape = [channels, *space][-axes:]
            layer = nn.LayerNorm(shape, bias=bias) if kind == "layer" else nn.RMSNorm(shape)
        elif kind == "group":
            layer = nn.GroupNorm(2, channels)
        else:
            layer = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(space) - 1](channels, affine=True)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        layer.weight.requires_grad_(not frozen or getattr(layer, "bias", None) is None)
        return layer

    check(make, strided(STACK_MODELS, batch, channels, *space, calls=calls))


def test_group_norm_of_channels_alone() -> None:
    check(lambda: nn.GroupNorm(2, 6), [torch.randn(STACK_MODELS, 3, 6)])


TESTED_LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 5), (6,)),
    "Linear of a sequence": (lambda: nn.Linear(6, 5), (4, 6)),
    "Linear by ghost norm": (lambda: nn.Linear(8, 10), (3, 8)),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 7, 7)),
    "Conv2d by ghost norm": (lambda: nn.Conv2d(8, 16, 3), (8, 4, 4)),
    "Conv2d grouped, dilated": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), (4, 7, 7)),
    "Conv2d same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "Embedding": (lambda: nn.Embedding(11, 5), (6,)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (4, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (6, 5, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (4, 6)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 5, 5)),
}


def by_opacus(layer: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """The clipped sum of Opacus's hooks mode, without noise."""
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    inner = torch.optim.SGD(wrapped.parameters(), lr=0)
    optimizer = DPOptimizer(inner, noise_multiplier=0, max_grad_norm=CLIP_NORM, expected_batch_size=1)
    if x.is_floating_point():
        x.requires_grad_()
    (wrapped(x) * delta).sum().backward()
    optimizer.pre_step()
    return {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("kind", TESTED_LAYERS)
@settings(deadline=None, max_examples=5)
@given(batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_clipped_sum_equals_opacus_hooks(kind: str, batch: int, seed: int) -> None:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    make, shape = TESTED_LAYERS[kind]
    layers = [make() for _ in range(STACK_MODELS)]
    floats = not isinstance(layers[0], nn.Embedding)
    x = torch.randn(STACK_MODELS, batch, *shape) if floats else torch.randint(0, 11, (STACK_MODELS, batch, *shape))
    delta = torch.stack([noted(layer, [x[k]])[0] for k, layer in enumerate(layers)])
    stacked = stack([nn.Sequential(layer) for layer in layers])[0]

    def clipped(layer: nn.Module, is_stack: bool, *calls: Tensor) -> dict[str, Tensor]:
        squares, sums = gradients(layer, is_stack)(layer, ([calls[0]], [calls[1]]))
        by_parameter = sums(CLIP_NORM / squares.sqrt().clamp(min=CLIP_NORM))
        return {name: by_parameter[parameter] for name, parameter in layer.named_parameters()}

    together = clipped(stacked, True, x, delta)
    if isinstance(stacked, StackedLinear):
        together["weight"] = together["weight"].mT
    for k, layer in enumerate(layers):
        of_engine = clipped(layer, False, x[k], delta[k])
        expected = by_opacus(layer, x[k], delta[k])
        torch.testing.assert_close(of_engine, expected, atol=1e-5, rtol=1e-5)
        in_stack = {name: total[k] for name, total in together.items()}
        torch.testing.assert_close(in_stack, expected, atol=1e-5, rtol=1e-5)


def test_other_layers_by_opacus_own_samplers() -> None:
    layer, x = RNNLinear(3, 4), torch.randn(5, 3)
    (delta,) = noted(layer, [x])
    squares, sums = gradients(layer, False)(layer, ([x], [delta]))
    weights = torch.rand(5)
    totals = {name: sums(weights)[parameter] for name, parameter in layer.named_parameters()}
    agree(layer, squares, totals, weights, alone(layer, [x], [delta]))


def test_embedding_materializes_no_table_per_record() -> None:
    layer = nn.Embedding(1_000_000, 2)
    x = torch.randint(0, 1_000_000, (4096, 2))  # 65 GB if every record had a table of its own
    squares, _ = gradients(layer, False)(layer, ([x], [torch.ones(4096, 2, 2)]))
    assert squares.shape == (4096,)


@pytest.mark.parametrize(
    ("layer", "shape", "ghost"),
    [
        (nn.Linear(32, 64), (2, 32), True),
        (nn.Linear(32, 64), (32, 32), False),
        (nn.Conv2d(16, 32, 3), (16, 4, 4), True),
        (nn.Conv2d(16, 32, 3), (16, 12, 12), False),
    ],
)
def test_ghost_norms_where_they_are_cheaper(
    layer: nn.Module, shape: tuple[int, ...], ghost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def spy(activation: Tensor, delta: Tensor) -> Tensor:
        called.append(True)
        return ghost_norms(activation, delta)

    for module in ("dense", "convolution"):
        monkeypatch.setattr(f"palisade.defenses.dp_sgd.layers.{module}.ghost_norms", spy)
    layer, x = layer.double(), torch.randn(3, *shape)
    gradients(layer, False)(layer, ([x], noted(layer, [x])))
    assert bool(called) is ghost


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Renamed(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "layer",
    [
        OwnConvolution(1, 1, 3),
        nn.utils.weight_norm(nn.Linear(2, 2)),
        nn.Embedding(3, 2, max_norm=1.0),
        nn.Embedding(3, 2, scale_grad_by_freq=True),
        nn.Embedding(3, 2, sparse=True),
        nn.EmbeddingBag(3, 2),
        nn.Bilinear(2, 2, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_gradient_is_unknown(layer: nn.Module) -> None:
    assert gradients(layer, False) is None


def test_subclass_that_inherits_its_forward_is_known() -> None:
    assert gradients(Renamed(1, 1, 3), False) is gradients(nn.Conv2d(1, 1, 3), False)


def test_forms_are_known_on_their_own_side_only() -> None:
    for layer in (nn.Linear(2, 2), nn.Conv2d(1, 1, 3), nn.Embedding(3, 2), nn.LayerNorm(2)):
        stacked = stack([nn.Sequential(layer)])[0]
        known = [gradients(form, side) is not None for form, side in itertools.product((layer, stacked), (False, True))]
        assert known == [True, False, False, True]
