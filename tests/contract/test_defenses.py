"""What every defense promises, whoever wrote it."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from datamodules.dataset import from_config
from datamodules.loaders import Batch
from datamodules.secret import Secret
from datamodules.split import ROLES, Membership
from defenses.base import Defense
from targets.statement import Statement
from targets.training import make_fitter

CONF = Path(__file__).parents[2] / "conf"
DEFENSES = sorted(path.stem for path in (CONF / "defense").glob("*.yaml"))


def make(settings) -> Defense:
    return instantiate({key: value for key, value in settings["defense"].items() if key != "trainer"})


def fit(settings, models, at_once):
    settings["defense"].setdefault("trainer", {})["epochs"] = 1
    dataset, secret, membership = from_config(settings), Secret.from_text("contract"), Membership()
    settings = {**settings, "fleet": {"at_once": at_once}}
    fitter = make_fitter(settings, dataset, secret, models, membership)
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, models, secret))
    return fleet, fitter.defense.statement(fleet)


@pytest.mark.parametrize("name", DEFENSES)
def test_declares_what_it_is(compose, name):
    defense = make(compose("data=digits", f"defense={name}"))
    assert isinstance(defense, Defense) and type(defense).__doc__
    assert defense.roles <= set(ROLES) - {"pool", "population", "test"}
    assert defense.strength is None or isinstance(defense.strength, float | int)
    assert len(inspect.getsource(inspect.getmodule(type(defense))).splitlines()) <= 150


@pytest.mark.parametrize("name", DEFENSES)
def test_same_secret_gives_the_same_models_and_a_statement(compose, name):
    settings = compose("data=digits", f"defense={name}")
    (one, statement), (other, _) = (fit(settings, [0, 1], at_once=2) for _ in range(2))
    for state, again in zip(one.states, other.states, strict=True):
        assert all(torch.equal(value, again[key]) for key, value in state.items())
    assert isinstance(statement, Statement) and Statement.from_json(statement.to_json()) == statement


@pytest.mark.parametrize("name", DEFENSES)
def test_works_in_a_stack_as_well_as_alone(compose, name):
    settings = compose("data=digits", f"defense={name}")
    if not make(settings).stackable:
        with pytest.raises(ValueError, match=r"has no stacked form; use fleet\.at_once=1"):
            fit(settings, [0, 1], at_once=2)
        return
    (stacked, _), (alone, _) = fit(settings, [0, 1], at_once=2), fit(settings, [1], at_once=1)
    for key, value in alone.states[0].items():
        torch.testing.assert_close(value, stacked.states[1][key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DEFENSES)
def test_separable_loss_depends_on_each_record_alone(compose, name):
    defense = make(compose("data=digits", f"defense={name}"))
    logits, y = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    batch = Batch(torch.zeros(2, 5, 4), y, torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.int64))
    losses = defense.loss(logits, batch, 0)
    assert losses.shape == (2, 5)
    changed = logits.clone()
    changed[:, 3] += torch.randn(2, 3)
    same = torch.isclose(defense.loss(changed, batch, 0), losses).all(dim=0)
    assert not defense.separable or same.tolist() == [True, True, True, False, True]


def test_undefended_loss_is_cross_entropy(compose):
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    y = torch.tensor([0, 2])
    batch = Batch(torch.zeros(2, 4), y, torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64))
    losses = make(compose("data=digits")).loss(logits, batch, 0)
    expected = [np.log(np.exp([2, 0, -1]).sum()) - 2, np.log(3)]
    assert losses.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["defense=l2", "defense.weight_decay=0"], "defense.weight_decay=0 must be above 0; use defense=none for 0"),
        (["defense=l2", "defense.weight_decay=-1"], "defense.weight_decay=-1 must be above 0"),
        (["defense=dp_sgd", "defense.epsilon=-1"], "epsilon=-1 is not positive"),
        (["defense=dp_sgd", "defense.max_grad_norm=0"], "max_grad_norm=0"),
    ],
)
def test_wrong_strengths_are_refused(compose, overrides, message):
    with pytest.raises(Exception, match=message):
        make(compose("data=digits", *overrides))


def test_weight_decay_pulls_weights_towards_zero(compose):
    norms = []
    for overrides in (["defense=none"], ["defense=l2", "defense.weight_decay=1"]):
        fleet, _ = fit(compose("data=digits", *overrides), [0], at_once=1)
        norms.append(sum(float(value.square().sum()) for value in fleet.states[0].values()))
    assert norms[1] < 0.8 * norms[0]


def test_weight_decay_is_the_gradient_of_half_the_squared_norm():
    from defenses.l2 import WeightDecay

    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)
    p.grad = torch.tensor([0.5, 0.5])
    WeightDecay(0.1).on_before_optimizer_step(None, None, optimizer)
    assert p.grad.tolist() == pytest.approx([0.6, 0.3])
