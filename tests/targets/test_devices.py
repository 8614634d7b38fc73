"""A model is the same on every device; the simulated one shows that without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_device import DEVICE, Costs, counting

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.defaults import resolved
from palisade.targets.fleet import Fleet
from palisade.targets.training import make_defense, make_fitter

SHORT = ["trainer.epochs=2", "trainer.batch_size=64", "split.pool=300"]
CPU = torch.device("cpu")


def fit(settings, device: torch.device, models: int) -> Fleet:
    dataset = from_config(settings)
    secret = Secret.from_text("devices")
    membership = Membership(**settings["membership"])
    settings = {**settings, "fleet": {**settings["fleet"], "at_once": models}}
    fitter = replace(make_fitter(settings, dataset, secret, list(range(models)), membership), device=device)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, fitter.models, secret))


def check_equal(settings, models: int) -> Costs:
    """Trains on the CPU and on the device, and compares weights, checkpoints and answers bit by bit."""
    here = fit(settings, CPU, models)
    with counting() as costs:
        there = fit(settings, DEVICE, models)
    assert costs.total["kernel"] > 0
    check_states(here.states, there.states)
    for one, other in zip(here.checkpoints, there.checkpoints, strict=True):
        assert one.keys() == other.keys()
        check_states(one.values(), other.values())
    x = from_config(settings).x[:50]
    with counting() as costs_of_answers:
        answers = there.predict(x)
    assert costs_of_answers.total["kernel"] > 0
    assert np.array_equal(here.predict(x), answers)
    return costs


def check_states(here, there) -> None:
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name].device == CPU
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("models", [1, 3])
def test_undefended(compose, models):
    check_equal(compose("data=digits", *SHORT, "fleet.keep_checkpoints=1"), models)


PRIVATE = ["defense=dp_sgd", *(f"defense.{each}" for each in SHORT[:2]), "defense.trainer.optimizer.lr=0.1", SHORT[2]]


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
def test_dp_sgd(compose, clipping, models):
    check_equal(compose("data=digits", "network=mlp", *PRIVATE, f"defense.clipping={clipping}"), models)


SMALL = [
    *("data=digits", "network.hidden=[16]", "trainer.batch_size=32", "trainer.optimizer.lr=0.02"),
    *("split.pool=0.2", "split.validation=0.1", "split.reference=0.2"),
]
SMALLER = {
    "pate": ["defense.teachers=3", "defense.queries=50", "defense.noise_multiplier=1"],
    "selena": ["defense.sub_models=3", "defense.left_out=1"],
    "dp_sgd": ["defense.weight_averaging=true"],
    "early_stopping": ["defense.patience=1"],
}
DEFENSES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "defense").glob("*.yaml"))


def shortened(defense):
    """Two epochs for a defense and its bases, whatever their own trainers say."""
    base = {"base": shortened(defense["base"])} if "base" in defense else {}
    return {**defense, **base, "trainer": {**(defense.get("trainer") or {}), "epochs": 2}}


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense(compose, name, models):
    settings = compose(*SMALL, "trainer.epochs=2", f"defense={name}", *SMALLER.get(name, []))
    settings = {**settings, "defense": shortened(settings["defense"])}
    settings = resolved(settings, from_config(settings))
    if models > 1 and not make_defense(settings["defense"]).stackable:
        pytest.skip("no stacked form")
    check_equal(settings, models)
