"""The engine's clipped sums against `vmap(grad)` and against Opacus."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.stacks import stack, unstack

pytestmark = pytest.mark.usefixtures("double")
CLIP_NORM = 0.7
loss = nn.functional.cross_entropy


def oracle(network: nn.Module, x: Tensor, y: Tensor, clip: float = CLIP_NORM) -> tuple[dict[str, Tensor], Tensor]:
    """Clipped sums and norms from materialized per-record gradients."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(network, weights, x[None])
        return loss(logits.flatten(0, -2), y.expand(logits.shape[:-1].numel()))

    samples = vmap(grad(one), (None, 0, 0))(weights, x, y)
    norms = sum(g.flatten(1).square().sum(1) for g in samples.values()).sqrt()
    factor = (clip / norms).clamp(max=1)
    return {name: torch.einsum("b,b...->...", factor, g) for name, g in samples.items()}, norms


def write(engine: Engine) -> None:
    """The sum into `p.grad`."""
    for parameter, total in zip(engine.parameters, engine.take(), strict=True):
        parameter.grad = total


def clipped(network: nn.Module, x: Tensor, y: Tensor, clip: float = CLIP_NORM) -> tuple[dict[str, Tensor], Tensor]:
    engine = Engine(network, clipping=Flat(clip))
    engine.attach()
    logits = network(x)
    positions = logits.shape[1:-1].numel()
    loss(logits.flatten(0, -2), y.repeat_interleave(positions)).backward()
    norms = engine.clip((len(x),), scale=len(x))
    write(engine)
    engine.detach()
    return {name: parameter.grad for name, parameter in network.named_parameters()}, norms


def check(network: nn.Module, x: Tensor, classes: int) -> None:
    y = torch.randint(0, classes, (len(x),))
    expected, norms = oracle(network, x, y)
    sums, clipped_norms = clipped(copy.deepcopy(network), x, y)
    torch.testing.assert_close(clipped_norms, norms)
    torch.testing.assert_close(sums, expected)


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 6), inputs=st.integers(1, 9), hidden=st.integers(1, 9), bias=st.booleans())
def test_linear(batch: int, inputs: int, hidden: int, bias: bool) -> None:
    network = nn.Sequential(nn.Linear(inputs, hidden, bias=bias), nn.Tanh(), nn.Linear(hidden, 3))
    check(network, torch.randn(batch, inputs), 3)


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 4), positions=st.integers(1, 6), width=st.integers(1, 12))
def test_positions_by_ghost_norm_and_materialized(batch: int, positions: int, width: int) -> None:
    check(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)), torch.randn(batch, positions, 4), 3)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 4), channels=st.integers(1, 3), stride=st.integers(1, 2))
def test_convolution_and_group_norm(batch: int, channels: int, stride: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=stride, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    x = torch.randn(batch, channels, 6, 6)
    network(x)
    check(network, x, 3)


def test_embedding_and_layer_norm() -> None:
    network = nn.Sequential(nn.Embedding(11, 5), nn.Flatten(), nn.LayerNorm(20), nn.Linear(20, 3))
    check(network, torch.randint(0, 11, (5, 4)), 3)


def test_layer_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.layer(torch.tanh(self.norm(self.layer(x))))))

    check(Twice(), torch.randn(5, 4), 3)


def test_in_place_activation_and_frozen_layer() -> None:
    network = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    )
    network[2].requires_grad_(False)
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    plain = copy.deepcopy(network)
    plain[1].inplace = plain[3].inplace = False
    expected, _ = oracle_of_trainable(plain, x, y)
    sums, _ = clipped(network, x, y)
    assert sums["2.weight"] is None
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value)


def test_in_place_activation_after_a_sequence() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    plain = nn.Sequential(network[0], nn.ReLU(), network[2])
    x, y = torch.randn(3, 5, 4), torch.randint(0, 3, (3,))
    expected, _ = oracle(plain, x, y)
    sums, _ = clipped(network, x, y)
    torch.testing.assert_close(sums, expected)


def oracle_of_trainable(network: nn.Module, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    weights = {name: parameter.detach() for name, parameter in network.named_parameters() if parameter.requires_grad}
    samples = vmap(grad(lambda w, x, y: loss(functional_call(network, w, x[None]), y[None])), (None, 0, 0))(
        weights, x, y
    )
    norms = sum(g.flatten(1).square().sum(1) for g in samples.values()).sqrt()
    factor = (CLIP_NORM / norms).clamp(max=1)
    return {name: torch.einsum("b,b...->...", factor, g) for name, g in samples.items()}, norms


def gradients(stacked: nn.Module) -> list[dict[str, Tensor]]:
    """The gradients of every model of a stack, in the shapes that the models' own parameters have."""
    of_gradients = copy.deepcopy(stacked)
    for parameter, clone in zip(stacked.parameters(), of_gradients.parameters(), strict=True):
        clone.data = parameter.grad
    return unstack(of_gradients)


@settings(deadline=None, max_examples=15)
@given(models=st.integers(2, 4), batch=st.integers(1, 5), hidden=st.integers(1, 6))
def test_stack_equals_each_model_alone_and_padding_counts_for_nothing(models: int, batch: int, hidden: int) -> None:
    networks = [nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)) for _ in range(models)]
    stacked = stack(networks)
    x, y = torch.randn(models, batch, 4), torch.randint(0, 3, (models, batch))
    mask = torch.ones(models, batch, dtype=torch.bool)
    mask[0, -1] = False
    engine = Engine(stacked, clipping=Flat(CLIP_NORM), stacked=True)
    engine.attach()
    losses = loss(stacked(x).flatten(0, 1), y.flatten(), reduction="none").view(models, batch)
    (losses.where(mask, 0).sum() / 6).backward()
    norms = engine.clip((models, batch), scale=6)
    write(engine)
    for k, network in enumerate(networks):
        expected, alone = oracle(network, x[k, mask[k]], y[k, mask[k]]) if mask[k].any() else ({}, torch.zeros(0))
        torch.testing.assert_close(norms[k, mask[k]], alone)
        for name, value in expected.items():
            torch.testing.assert_close(gradients(stacked)[k][name], value)
    assert norms[0, -1] == 0


@pytest.mark.parametrize("models", [1, 3])
def test_equals_opacus_hooks(models: int) -> None:
    torch.set_default_dtype(torch.float32)
    networks = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(models)]
    x, y = torch.randn(models, 16, 6), torch.randint(0, 3, (models, 16))
    if models == 1:
        sums = [clipped(copy.deepcopy(networks[0]), x[0], y[0])[0]]
    else:
        stacked = stack(networks)
        engine = Engine(stacked, clipping=Flat(CLIP_NORM), stacked=True)
        engine.attach()
        (loss(stacked(x).flatten(0, 1), y.flatten(), reduction="sum") / 16).backward()
        engine.clip((models, 16), scale=16)
        write(engine)
        sums = gradients(stacked)
    for k, network in enumerate(networks):
        wrapped = GradSampleModule(network, loss_reduction="mean")
        optimizer = DPOptimizer(
            torch.optim.SGD(wrapped.parameters(), lr=0),
            noise_multiplier=0,
            max_grad_norm=CLIP_NORM,
            expected_batch_size=1,
        )
        loss(wrapped(x[k]), y[k]).backward()
        optimizer.pre_step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(sums[k][name], parameter.grad, atol=1e-5, rtol=1e-5)


def test_sensitivity_is_the_clipping_norm() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = 50 * torch.randn(12, 4), torch.randint(0, 3, (12,))
    with_all, norms = clipped(copy.deepcopy(network), x, y)
    without_last, _ = clipped(copy.deepcopy(network), x[:-1], y[:-1])
    difference = torch.cat([(with_all[name] - without_last[name]).flatten() for name in with_all]).norm()
    assert norms[-1] > CLIP_NORM
    torch.testing.assert_close(difference, torch.tensor(CLIP_NORM))


@pytest.mark.parametrize("positions", [4, 24])
def test_norms_that_cancel_are_not_taken_for_small(positions: int) -> None:
    """Large positions that cancel: in float32 their Gram matrices hide the norm that is left."""
    torch.set_default_dtype(torch.float32)
    layer = nn.Linear(512, 512)
    engine = Engine(layer, clipping=Flat(CLIP_NORM))
    engine.attach()
    x = 3e3 * torch.randn(1, 1, 512).expand(8, positions, 512) + 0.03 * torch.randn(8, positions, 512)
    sign = torch.ones(positions)
    sign[1::2] = -1
    (layer(x) * sign[:, None] * torch.randn(8, 1, 512)).sum().backward()
    sums = torch.zeros(512, 512)
    for record in range(8):
        squares, all_sums = engine.notes((8,)).gradients()
        alone = torch.zeros(8)
        alone[record] = 1
        sums = all_sums[0](alone)[layer.weight]
        factor = float(engine.clipping.factors(squares.sum(0).sqrt(), squares)[record])
        assert factor * float(sums.double().norm()) <= CLIP_NORM * (1 + 1e-3)


def test_records_without_gradient_do_not_divide_zero_by_zero() -> None:
    network = nn.Linear(3, 2)
    engine = Engine(network, clipping=Flat(CLIP_NORM))
    engine.attach()
    (network(torch.randn(2, 3)) * 0).sum().backward()
    assert torch.equal(engine.clip((2,), scale=1), torch.zeros(2))
    write(engine)
    assert torch.equal(network.weight.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_record_that_is_not_finite_counts_for_nothing(bad: float) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x, y = torch.randn(5, 4), torch.randint(0, 3, (5,))
    x[2] = bad
    keep = torch.tensor([0, 1, 3, 4])
    expected, _ = oracle(network, x[keep], y[keep])
    sums, norms = clipped(network, x, y)
    torch.testing.assert_close(sums, expected)
    assert norms[2] == 0


def test_empty_batch_gives_zeros() -> None:
    network = nn.Linear(3, 2)
    engine = Engine(network, clipping=Flat(1))
    write(engine)
    assert torch.equal(network.weight.grad, torch.zeros(2, 3))
    engine.attach()
    network.zero_grad()
    network(torch.zeros(0, 3)).sum().backward()
    assert engine.clip((0,), scale=1).shape == (0,)
    write(engine)
    assert torch.equal(network.bias.grad, torch.zeros(2))


def test_network_is_what_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    before, kind = list(network.state_dict()), type(network[0])
    attributes = set(vars(network[0]))
    x = torch.randn(2, 3)
    engine = Engine(network, clipping=Flat(1))
    engine.attach()
    assert list(network.state_dict()) == before and type(network[0]) is kind
    engine.detach()
    assert set(vars(network[0])) == attributes
    network(x).sum().backward()
    assert network[0].weight.grad is not None


def test_evaluation_mode_is_left_alone() -> None:
    network = nn.Linear(3, 2)
    engine = Engine(network, clipping=Flat(1))
    engine.attach()
    network.eval()(torch.randn(2, 3)).sum().backward()
    assert not engine.layers[0].tapes[0][0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), r"layer 1 \(BatchNorm1d\) has parameters whose gradient"),
        (nn.TransformerEncoderLayer(4, 2), r"layer self_attn \(MultiheadAttention\) bypasses its projections' forward"),
        (Tied(), r"layer two \(Linear\) shares a parameter with one \(Linear\)"),
        (Own(), r"layer itself \(Own\) has parameters whose gradient per record is unknown"),
        (nn.Sequential(Doubled(3, 3)), r"layer 0 \(Doubled\) has parameters whose gradient per record is unknown"),
        (nn.ReLU(), r"ReLU has no trainable parameter; unfreeze a layer"),
    ],
)
def test_refusals(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(network, clipping=Flat(1))


def test_stack_refuses_layers_without_a_stacked_form() -> None:
    with pytest.raises(ValueError, match=r"layer itself \(LayerNorm\) .* is unknown in a stack"):
        Engine(nn.LayerNorm(3), clipping=Flat(1), stacked=True)


def test_refuses_an_unused_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    engine = Engine(network, clipping=Flat(1))
    engine.attach()
    network[0](torch.randn(2, 3)).sum().backward()
    with pytest.raises(ValueError, match=r"layer 1 \(Linear\) is trainable but the loss does not depend on it; use it"):
        engine.clip((2,), scale=1)


def test_refuses_hooks_on_parameters() -> None:
    network = nn.Linear(3, 2)
    network.weight.register_hook(lambda gradient: gradient * 2)
    with pytest.raises(ValueError, match="has a parameter with a hook, which sees no gradient"):
        Engine(network)


def test_refuses_gradients_of_gradients() -> None:
    network = nn.Linear(3, 2)
    Engine(network).attach()
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="training_step differentiates a gradient"):
        torch.autograd.grad(network(x).sum(), x, create_graph=True)


def test_leaves_a_forward_that_was_there() -> None:
    network = nn.Linear(3, 2)
    own = network.forward
    network.forward = own
    engine = Engine(network)
    engine.attach()
    engine.detach()
    assert network.__dict__["forward"] is own


def test_refuses_weights_used_outside_the_layer() -> None:
    network = nn.Linear(3, 2)
    engine = Engine(network, clipping=Flat(1))
    engine.attach()
    (network(torch.randn(2, 3)).sum() + network.weight.square().sum()).backward()
    with pytest.raises(ValueError, match=r"layer itself \(Linear\) has a gradient that no record was clipped for"):
        engine.clip((2,), scale=1)


def test_refuses_a_batch_dimension_that_is_not_first() -> None:
    network = nn.Linear(3, 2)
    engine = Engine(network, clipping=Flat(1))
    engine.attach()
    network(torch.randn(4, 5, 3).flatten(0, 1)).sum().backward()
    with pytest.raises(ValueError, match=r"saw a tensor of shape \(20, 3\) in a batch of 4 records; keep the batch"):
        engine.clip((4,), scale=1)


def test_refuses_an_activation_that_was_changed_in_place() -> None:
    network = nn.Linear(3, 3)
    Engine(network, clipping=Flat(1)).attach()
    x = torch.randn(2, 3)
    out = network(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
