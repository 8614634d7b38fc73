"""Dropout drops what (secret, model, step, layer) say, and nothing outside training."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from palisade.data.dataset import from_config
from palisade.data.draws import Draws
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dropout import Dropout, DroppedOut
from palisade.targets.networks import CNN, MLP
from palisade.targets.stacks import stack
from palisade.targets.training import at_once, make_fitter
from palisade.targets.transformer import Transformer

NETWORK_CASES = {
    "mlp": (lambda: MLP(shape=(6,), classes=3, hidden=[8, 5], activation="tanh"), torch.randn(4, 6), 2),
    "cnn": (lambda: CNN(shape=(1, 8, 8), classes=3, channels=[8, 16], activation="silu"), torch.randn(4, 1, 8, 8), 2),
    "transformer": (
        lambda: Transformer(shape=(5,), classes=3, buckets=9, width=8, depth=2),
        torch.randint(9, (4, 5)),
        2,
    ),
}


def draws(step=0, models=(0,), stacked=False) -> Draws:
    return Draws(secret=Secret.from_text("masks"), models=list(models), step=step, stacked=stacked)


def start(network: nn.Module, draws_of_step: Draws | None) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, DroppedOut):
            layer.start(draws_of_step)
    return network


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_stands_after_every_activation_and_keeps_names_and_outputs(name):
    make, x, activations = NETWORK_CASES[name]
    plain, changed = make(), Dropout(rate=0.5).network(make())
    assert type(changed) is type(plain)
    assert list(changed.state_dict()) == list(plain.state_dict())
    changed.load_state_dict(plain.state_dict())
    layers = [layer for layer in changed.modules() if isinstance(layer, DroppedOut)]
    assert len(layers) == activations and [layer.number for layer in layers] == list(range(activations))
    torch.testing.assert_close(changed.eval()(x), plain(x))
    dropped = start(changed.train(), draws())(x)
    assert not torch.allclose(dropped, plain(x))


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_masks_in_a_stack_are_those_alone(name):
    """Padded to a common width, as a stack's batches are."""
    make, x, _ = NETWORK_CASES[name]
    networks = [Dropout(rate=0.4).network(make()) for _ in range(3)]
    stacked = start(stack(networks), draws(7, (2, 5, 6), stacked=True)).train()
    outputs = stacked(torch.stack([x, x, x]))
    for k, model in enumerate((2, 5, 6)):
        alone = start(networks[k].train(), draws(7, (model,)))
        torch.testing.assert_close(alone(x[:3]), outputs[k, :3])


def layer_output(rate=0.3, *, number=0, draws_of_layer=None, rows=300):
    layer = DroppedOut(nn.ReLU(), rate, number).train()
    layer.start(draws_of_layer or draws())
    return layer(torch.ones(rows, 40)), layer


def test_share_that_is_dropped_and_the_rest_scaled():
    y, _ = layer_output(rate=0.3)
    dropped = int((y == 0).sum())
    assert stats.binomtest(dropped, y.numel(), 0.3).pvalue > 1e-3
    torch.testing.assert_close(y[y != 0], torch.full([y.numel() - dropped], 1 / 0.7))


def test_masks_differ_by_model_step_layer_and_call():
    first, layer = layer_output()
    same, _ = layer_output()
    assert torch.equal(first, same)
    again = layer(torch.ones(300, 40))
    others = [
        layer_output(draws_of_layer=draws(1)),
        layer_output(draws_of_layer=draws(0, (1,))),
        layer_output(number=1),
    ]
    for other in (again, *(y for y, _ in others)):
        agreement = ((other == 0) == (first == 0)).float().mean()
        assert float(agreement) == pytest.approx(0.7**2 + 0.3**2, abs=0.03)  # as independent masks agree


def test_global_random_numbers_are_neither_used_nor_spent():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = layer_output()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(layer_output()[0], one)


def test_shared_activations_are_dropped_in_every_place():
    relu = nn.ReLU()
    network = Dropout(rate=0.5).network(nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu))
    assert isinstance(network[1], DroppedOut) and isinstance(network[3], DroppedOut)
    assert network[1].number != network[3].number


def test_fleet_is_stacked_and_trained_alike(compose, fitting):
    settings = compose("data=digits", "trainer.epochs=5", "defense=dropout", "network.hidden=[32,16]")
    dataset = from_config(settings)
    fitter = make_fitter({**settings, "fleet": {"at_once": 1}}, dataset, Secret.from_text("d"), [0], Membership())
    assert at_once("auto", fitter) == 8
    stacked, alone = fitting(settings, [2, 3], 2).fit(), fitting(settings, [3], 1).fit()
    for name, value in alone.states[0].items():
        torch.testing.assert_close(value, stacked.states[1][name], atol=1e-5, rtol=0)
    network = MLP(shape=dataset.shape, classes=10, hidden=[32, 16])
    network.load_state_dict(alone.states[0])
    x = dataset.x[dataset.split.test]
    torch.testing.assert_close(torch.from_numpy(alone.predict(x)[0]), network(torch.from_numpy(x)).detach())
    plain = fitting({**settings, "defense": {"_target_": "palisade.defenses.none.NoDefense"}}, [3], 1).fit()
    assert not torch.allclose(plain.states[0]["0.weight"], alone.states[0]["0.weight"], atol=1e-3)


@pytest.mark.parametrize(("models", "stacked"), [([4], False), ([4, 6], True)])
def test_every_step_has_random_numbers_of_its_own_until_training_ends(compose, fitting, monkeypatch, models, stacked):
    started = []
    monkeypatch.setattr(DroppedOut, "start", lambda self, step: started.append(step) or setattr(self, "draws", step))
    monkeypatch.setattr(DroppedOut, "calls", 0, raising=False)
    fitting(compose("data=digits", "trainer.epochs=2", "defense=dropout"), models, len(models)).fit()
    steps = [step for step in started if step is not None]
    assert [step.step for step in steps] == list(range(20))  # two epochs of ⌈629/64⌉
    assert all((step.models, step.stacked) == (models, stacked) for step in steps) and started[-1] is None


def test_training_outside_a_fit_is_refused():
    layer = DroppedOut(nn.ReLU(), 0.5, 0)
    with pytest.raises(ValueError, match=r"defense=dropout: expected training in a Fitter.*; call eval\(\) first"):
        layer(torch.ones(2, 3))
    assert torch.equal(layer.eval()(torch.ones(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize(
    "network", [MLP(shape=(4,), classes=2), Transformer(shape=(5,), classes=3, buckets=9, width=8, depth=0)]
)
def test_network_without_activation_is_refused(network):
    with pytest.raises(ValueError, match=r"defense\.rate=0\.5"):
        Dropout(rate=0.5).network(network)


@pytest.mark.parametrize("rate", [0, 1, 1.2, -0.5, float("nan")])
def test_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match=rf"rate={rate}"):
        Dropout(rate=rate)


def test_strength():
    assert Dropout(rate=0.2).strength == 0.2
