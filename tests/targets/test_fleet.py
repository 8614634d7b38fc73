"""A model is the same alone, in a stack and in another worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.run import Run
from palisade.targets.training import make_fitter
from palisade.train import train_run

STEPS_100 = ["data=digits", "trainer.epochs=10", "trainer.batch_size=64"]  # ⌈629/64⌉ = 10 steps an epoch


def fit(settings, models, at_once):
    dataset = from_config(settings)
    secret = Secret.from_text("fleet")
    membership = Membership(**settings["membership"])
    fitter = make_fitter({**settings, "fleet": {"at_once": at_once}}, dataset, secret, models, membership)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, models, secret))


def difference(one, other) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "defense",
    [
        ["defense=none"],
        pytest.param(["defense=l2", "defense.weight_decay=1e-2"], marks=pytest.mark.slow),
        ["defense=dp_sgd", "defense.epsilon=inf", "defense.trainer.epochs=5"],
    ],
    ids=["none", "l2", "clip-only"],
)
def test_model_alone_equals_model_in_a_stack(compose, defense):
    settings = compose(*STEPS_100, *defense)
    stacked = fit(settings, list(range(6)), at_once=6)
    for k in (0, 5):
        assert difference(fit(settings, [k], at_once=1).states[0], stacked.states[k]) < 1e-5
    assert difference(stacked.states[0], stacked.states[1]) > 0.01


def test_noise_is_the_same_alone_and_in_a_stack(compose):
    settings = compose("data=digits", "defense=dp_sgd", "defense.trainer.epochs=2")
    stacked = fit(settings, [2, 3], at_once=2)
    assert difference(fit(settings, [3], at_once=1).states[0], stacked.states[1]) < 1e-5


def test_workers_train_the_same_models(compose, tmp_path):
    states = {}
    for workers in (1, 2):
        fleet = ["fleet.models=2", "fleet.at_once=1", f"fleet.workers={workers}", "secret=s"]
        settings = compose(*STEPS_100, *fleet, runs=tmp_path / str(workers))
        folder = Path(train_run(settings)["folder"])
        states[workers] = [load_file(folder / "models" / f"{k}.safetensors") for k in range(2)]
    for here, there in zip(*states.values(), strict=True):
        assert difference(here, there) < 1e-5


def test_training_learns_and_prediction_agrees_with_the_network(compose):
    settings = compose("data=digits", "trainer.epochs=20")
    fleet = fit(settings, [0, 1], at_once="auto")
    dataset = from_config(settings)
    test = dataset.split.test
    logits = fleet.predict(dataset.x[test])
    assert logits.shape == (2, len(test), 10) and logits.dtype == np.float32
    assert ((logits.argmax(-1) == dataset.y[test]).mean(axis=1) > 0.9).all()
    network = fleet.network
    network.load_state_dict(fleet.states[1])
    with torch.no_grad():
        assert np.allclose(network(torch.from_numpy(dataset.x[test])).numpy(), logits[1], atol=1e-5)


def test_convolutions_are_stacked_only_when_asked_for(compose):
    settings = compose("data=digits", "network=cnn")
    dataset, secret = from_config(settings), Secret.from_text("fleet")
    for wanted, expected in (("auto", 1), (4, 4)):
        config = {**settings, "fleet": {"at_once": wanted}}
        assert make_fitter(config, dataset, secret, [0, 1], Membership()).at_once == expected


def test_small_convolutional_network_trains_with_every_defense(compose):
    for defense in ("none", "dp_sgd"):
        settings = compose("data=digits", "network=cnn", f"defense={defense}", "trainer.epochs=1")
        settings["defense"].setdefault("trainer", {})["epochs"] = 1
        fleet = fit(settings, [0], at_once="auto")
        assert all(value.isfinite().all() for value in fleet.states[0].values())


def test_more_models_extend_a_run(compose):
    small = [*STEPS_100[:1], "trainer.epochs=2", "fleet.workers=1", "secret=s"]
    first = train_run(compose(*small, "fleet.models=2"))
    modified_at = (Path(first["folder"]) / "models" / "0.safetensors").stat().st_mtime_ns
    again = train_run(compose(*small, "fleet.models=3"))
    assert again == {"folder": first["folder"], "status": "trained"}
    assert Run(Path(first["folder"])).models() == [0, 1, 2]
    assert (Path(first["folder"]) / "models" / "0.safetensors").stat().st_mtime_ns == modified_at
    assert train_run(compose(*small, "fleet.models=2"))["status"] == "cached"
    assert Run(Path(first["folder"])).models() == [0, 1, 2]
