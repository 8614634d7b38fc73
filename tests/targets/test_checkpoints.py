"""Checkpoints are kept beside the models, and nothing that is trained changes by it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback
from safetensors.torch import load_file

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.none import NoDefense
from palisade.fields import as_written
from palisade.targets.checkpoints import checkpoint_epochs
from palisade.targets.recipe import FleetSettings
from palisade.targets.run import Run
from palisade.targets.training import load_fleet, make_fitter
from palisade.train import train_run

SMALL_RUN = ["data=digits", "network=linear", "trainer.epochs=5"]
DP_SGD_SETTINGS = ["defense=dp_sgd", "defense.trainer.epochs=5"]
SMALL_FLEET = [*SMALL_RUN, "fleet.models=2", "fleet.workers=1", "secret=s"]


def fit(config, models, at_once, keep):
    dataset, secret, membership = from_config(config), Secret.from_text("kept"), Membership()
    fleet = {"at_once": at_once, "keep_checkpoints": keep}
    fitter = make_fitter({**config, "fleet": fleet}, dataset, secret, models, membership)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, models, secret))


def same(one, other, tolerance=0.0):
    return all(torch.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in one)


@settings(deadline=None, max_examples=25)
@given(epochs=st.integers(1, 300), data=st.data())
def test_epochs_are_spread_evenly_between_start_and_end(epochs, data):
    count = data.draw(st.integers(0, epochs - 1))
    chosen = checkpoint_epochs(epochs, count)
    gaps = [b - a for a, b in itertools.pairwise([0, *chosen, epochs])]
    assert len(chosen) == count and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("defense", [[], DP_SGD_SETTINGS], ids=["none", "dp_sgd"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_keeping_checkpoints_changes_no_weight(compose, defense, at_once):
    config = compose(*SMALL_RUN, *defense)
    plain, with_checkpoints = (fit(config, [4, 5], at_once, keep) for keep in (0, 2))
    assert all(same(*states) for states in zip(plain.states, with_checkpoints.states, strict=True))
    assert plain.checkpoints == [{}, {}]
    assert [list(of_model) for of_model in with_checkpoints.checkpoints] == [[1, 3]] * 2
    for state, of_model in zip(with_checkpoints.states, with_checkpoints.checkpoints, strict=True):
        assert not same(of_model[1], of_model[3], 1e-3) and not same(of_model[3], state, 1e-3)


@pytest.mark.parametrize("at_once", [1, 2])
def test_checkpoint_is_what_a_shorter_training_ends_with(compose, at_once):
    long = fit(compose(*SMALL_RUN), [0, 1], at_once, 2)
    short = fit(compose(*SMALL_RUN, "trainer.epochs=3"), [0, 1], at_once, 0)
    for of_model, state in zip(long.checkpoints, short.states, strict=True):
        assert same(of_model[3], state)


def test_checkpoint_in_a_stack_is_that_of_the_model_alone(compose):
    config = compose(*SMALL_RUN, *DP_SGD_SETTINGS)
    stacked, alone = fit(config, [2, 3], 2, 1), fit(config, [3], 1, 1)
    assert same(stacked.checkpoints[1][2], alone.checkpoints[0][2], 1e-5)


def test_training_that_ends_early_keeps_its_end(compose, monkeypatch):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    monkeypatch.setattr(NoDefense, "callbacks", lambda self, fitter, split: [Stop()])
    fleet = fit(compose(*SMALL_RUN), [0], 1, 2)
    assert not same(fleet.checkpoints[0][1], fleet.states[0], 1e-3)
    assert same(fleet.checkpoints[0][3], fleet.states[0])


def test_checkpoints_extend_a_run_by_training_the_same_models_again(compose):
    first = train_run(compose(*SMALL_FLEET))
    folder = Path(first["folder"])
    run, final = Run(folder), load_file(folder / "models" / "1.safetensors")
    assert run.checkpoints() == [] and run.missing(2) == [] and run.missing(2, [2]) == [0, 1]
    assert train_run(compose(*SMALL_FLEET, "fleet.keep_checkpoints=2")) == {**first, "status": "trained"}
    assert run.checkpoints() == [1, 3]
    assert {path.name for path in (folder / "models").glob("1.*safetensors")} == {
        *("1.epoch1.safetensors", "1.epoch3.safetensors", "1.safetensors")
    }
    assert same(load_file(folder / "models" / "1.safetensors"), final)
    for fewer in ("fleet.keep_checkpoints=2", "fleet.keep_checkpoints=0"):
        assert train_run(compose(*SMALL_FLEET, fewer))["status"] == "cached"
    (folder / "models" / "1.epoch3.safetensors").unlink()
    assert run.checkpoints() == [1] and run.missing(2, [1, 3]) == [1]


def test_models_are_read_as_they_were_after_an_epoch(compose):
    run = Run(Path(train_run(compose(*SMALL_FLEET, "fleet.keep_checkpoints=1"))["folder"]))
    start, middle, end = (load_fleet(run.config, run.dataset, run.folder, [0, 1], epoch) for epoch in (0, 2, None))
    membership = Membership()
    fitter = make_fitter({**run.config, "fleet": {"at_once": 1}}, run.dataset, run.secret, [0, 1], membership)
    assert same(start.states[1], fitter.initial_network(1).state_dict())
    assert same(middle.states[1], load_file(run.folder / "models" / "1.epoch2.safetensors"))
    assert same(end.states[1], load_file(run.folder / "models" / "1.safetensors"))
    assert not same(start.states[0], start.states[1], 1e-3)


def test_runs_from_before_there_were_checkpoints_keep_none():
    assert FleetSettings(models=2, workers=1, at_once="auto").keep_checkpoints == 0


@pytest.mark.parametrize("count", [-1, 2.5, True, "auto"])
def test_number_of_checkpoints_is_a_count(count):
    with pytest.raises(ValueError, match=f"keep_checkpoints={as_written(count)}: "):
        FleetSettings(models=2, workers=1, at_once=1, keep_checkpoints=count)


def test_more_checkpoints_than_epochs_are_refused_before_anything_is_trained(compose, tmp_path):
    config = compose(*SMALL_FLEET, "fleet.keep_checkpoints=5")
    with pytest.raises(ValueError, match=r"keep_checkpoints=5"):
        train_run(config)
    assert not (tmp_path / "runs").exists()
