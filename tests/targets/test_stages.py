"""Defenses of several stages: soft labels, stages with random numbers of their own, bases with recipes of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd.defense import DPSGDDefense
from palisade.defenses.none import NoDefense
from palisade.targets.fleet import Defense
from palisade.targets.training import make_defense, make_fitter


@dataclass(frozen=True, kw_only=True)
class Composed(Defense):
    """Has a base and nothing else."""

    base: Defense = field(default_factory=NoDefense)


def fitter_for(settings, models, at_once=1):
    dataset, secret, membership = from_config(settings), Secret.from_text("stages"), Membership()
    fitter = make_fitter({**settings, "fleet": {"at_once": at_once}}, dataset, secret, models, membership)
    return fitter, dataset, membership.draw(dataset.split, models, secret)


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_soft_labels_that_say_the_class_train_the_same_model(compose):
    fitter, dataset, rows = fitter_for(compose("data=digits", "trainer.epochs=2"), [0, 1], at_once=2)
    hard = fitter.train(dataset.split, rows)
    certain = np.eye(10, dtype=np.float32)[dataset.y]
    soft = fitter.train(dataset.split, rows, soft_labels=np.stack([certain, certain]))
    for one, other in zip(hard.states, soft.states, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], atol=1e-5, rtol=0)


def test_each_model_learns_its_own_soft_labels(compose):
    settings = compose("data=digits", "trainer.epochs=20")
    fitter, dataset, rows = fitter_for(settings, [0, 1], at_once=2)
    classes = np.zeros((2, len(dataset.y)), dtype=int)
    classes[0], classes[1] = dataset.y, (dataset.y + 1) % 10
    fleet = fitter.train(dataset.split, rows, soft_labels=np.eye(10, dtype=np.float32)[classes])
    predicted = fleet.predict(dataset.x[dataset.split.test]).argmax(axis=-1)
    agreement = (predicted == classes[:, dataset.split.test]).mean(axis=1)
    assert agreement.min() > 0.7


def test_stage_has_random_numbers_of_its_own_and_keeps_no_checkpoints(compose):
    fitter, _, _ = fitter_for(compose("data=digits", "fleet.keep_checkpoints=2"), [0])
    stage = fitter.stage("teacher", models=[3], size=50)
    assert (stage.models, stage.size, stage.keep_checkpoints) == ([3], 50, 0)
    assert not equal(stage.initial_network(0).state_dict(), fitter.initial_network(0).state_dict())
    assert equal(stage.initial_network(0).state_dict(), fitter.stage("teacher").initial_network(0).state_dict())
    assert not equal(stage.initial_network(0).state_dict(), fitter.stage("other").initial_network(0).state_dict())


def test_base_is_trained_by_its_own_recipe(compose):
    settings = compose("data=digits", "defense=dp_sgd", "defense.trainer.epochs=7")
    inner = settings["defense"]
    settings["defense"] = {"_target_": f"{__name__}.Composed", "base": inner, "trainer": {"epochs": 3}}
    fitter, _, _ = fitter_for(settings, [0])
    assert fitter.recipe.epochs == 3 and fitter.recipe.optimizer["_target_"] == "torch.optim.Adam"
    assert isinstance(fitter.base.defense, DPSGDDefense) and fitter.base.recipe.epochs == 7
    assert fitter.base.recipe.optimizer["_target_"] == "torch.optim.SGD"
    assert replace(fitter.base, models=[2]).models == [2]


def test_trainers_of_all_bases_are_left_to_the_recipes():
    base = {"_target_": f"{__name__}.Composed", "base": {"_target_": "palisade.defenses.none.NoDefense", "trainer": {}}}
    composed = {"_target_": f"{__name__}.Composed", "base": {**base, "trainer": {}}, "trainer": {}}
    assert make_defense(composed) == Composed(base=Composed(base=NoDefense()))


@dataclass(frozen=True, kw_only=True)
class Teaching(Defense):
    """Needs public records."""

    roles = frozenset({"reference"})


def test_defense_without_its_records_is_refused(compose):
    settings = compose("data=digits")
    settings["defense"] = {"_target_": f"{__name__}.Teaching"}
    settings["names"]["defense"] = "teaching"
    with pytest.raises(ValueError, match=r"split.reference=0"):
        fitter_for(settings, [0])
    settings["split"]["reference"] = 0.1
    assert fitter_for(settings, [0])[0].defense.roles == {"reference"}
