"""Defenses and optimizers by the class that a configuration names."""

from __future__ import annotations

import pytest
import torch

from palisade.data.settings import named_in_full
from palisade.targets.recipe import Recipe
from palisade.targets.training import make_defense

DP_SGD = {"_target_": "palisade.defenses.dp_sgd.DPSGDDefense", "epsilon": 8}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "builtins.print"},
            r"^defense\._target_=builtins\.print: expected .*palisade\.targets\.fleet\.Defense; ",
        ),
        ({"_target_": "nowhere.Mine"}, r"^defense\._target_=nowhere\.Mine: cannot be imported \(ModuleNotFoundError"),
        ({}, r"^defense\._target_=null: cannot be imported"),
        ({**DP_SGD, "wat": 1}, r"^defense\.wat=1: no such setting, expected one of epsilon, delta"),
        ({**DP_SGD, "epsilon": 0}, r"^defense\.epsilon=0: expected a number > 0; "),
        ({**DP_SGD, "epsilon": "abc"}, r"^defense\.epsilon=abc: expected a number"),
        (
            {"_target_": "palisade.defenses.selena.Selena", "base": {**DP_SGD, "epsilon": 0}},
            r"^defense\.base\.epsilon=0: expected",
        ),
    ],
)
def test_settings_of_a_defense_are_refused_by_their_keys(node, message):
    with pytest.raises(ValueError, match=message):
        make_defense(node)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            {"_target_": "torch.optim.Nope"},
            r"^optimizer\._target_=torch\.optim\.Nope: cannot be imported \(Attr",
        ),
        ({"_target_": "builtins.list"}, r"^optimizer\._target_=builtins\.list: expected .*Optimizer; "),
        (
            {"_target_": "torch.optim.SGD", "lr": -1},
            r"^optimizer\._target_=torch\.optim\.SGD: .*Invalid learning rate: -1\); fix",
        ),
        ({"_target_": "torch.optim.SGD", "wat": 1}, r"^optimizer\.wat=1: no such setting, expected one of lr, "),
    ],
)
def test_what_makes_no_optimizer_is_refused(optimizer, message):
    recipe = Recipe(epochs=1, batch_size=1, optimizer=optimizer)
    with pytest.raises(ValueError, match=message):
        recipe.make_optimizer([torch.nn.Parameter(torch.zeros(1))])


def test_settings_of_the_trainer_are_named_where_they_stand(compose):
    private = compose("data=digits", "defense=dp_sgd", "defense.trainer.epochs=0")
    with pytest.raises(ValueError, match=r"^defense\.trainer\.epochs=0"):
        Recipe.of(private)
    with pytest.raises(ValueError, match=r"^trainer\.epochs=0"):
        Recipe.of(compose("data=digits", "trainer.epochs=0"))
    composed = compose(
        "data=digits", "defense=selena", "defense@defense.base=dp_sgd", "defense.base.trainer.batch_size=0"
    )
    with pytest.raises(ValueError, match=r"^defense\.base\.trainer\.batch_size=0"):
        Recipe.of_bases(composed)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(ValueError, match=r"^rate=1"), named_in_full({"epsilon": "defense"}):
        raise ValueError("rate=1 is too much")
