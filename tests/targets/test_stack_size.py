"""Stacks on a GPU are as large as pays, which is measured once; on a CPU nothing changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from simulated_device import SIMULATED_NAME, counting
from test_fleet import difference, fit

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import fleets, noise
from palisade.targets import stack_size
from palisade.targets.device import DEVICE_VARIABLE
from palisade.targets.engines import local
from palisade.targets.engines.local import LocalEngine
from palisade.targets.run import Run
from palisade.targets.stack_size import StepCost, best_size, known_sizes
from palisade.targets.training import for_device, has_stacked_form, make_fitter
from palisade.train import train_run

BYTES_PER_GIB = 2**30
COST_CURVES = {
    "waits for the next product": (lambda models: 1.0, 256),
    "is full at once": (lambda models: float(models), 1),
    "is full with 32 models": (lambda models: max(1.0, models / 32), 32),
    "noise of the CPU shows from 16 models on": (lambda models: max(1.0 + 0.001 * models, 0.1 * models), 16),
    "two are slower than one, as with grouped convolutions": (lambda models: 1.0 if models == 1 else 3.0, 256),
    "stacks never pay": (lambda models: 1.0 * models + (models > 1), 1),
}


@pytest.mark.parametrize("name", COST_CURVES)
def test_the_smallest_stack_beyond_which_nothing_is_saved(name):
    seconds, expected = COST_CURVES[name]
    assert best_size(lambda models: StepCost(seconds(models), 0), 256, BYTES_PER_GIB) == expected


def test_memory_ends_the_growth_before_it_is_used_up():
    tried = []

    def cost(models):
        tried.append(models)
        return StepCost(1.0, models * BYTES_PER_GIB)

    assert best_size(cost, 256, 20 * BYTES_PER_GIB) == 16
    assert max(tried) == 16


def test_what_does_not_fit_is_not_chosen():
    def cost(models):
        if models > 8:
            raise torch.OutOfMemoryError
        return StepCost(1.0, 0)

    assert best_size(cost, 256, BYTES_PER_GIB) == 8


def test_no_stack_is_larger_than_what_it_is_for():
    assert best_size(lambda models: StepCost(1.0, 0), 4, BYTES_PER_GIB) == 4


SHORT_RUN = ["data=digits", "trainer.epochs=1", "trainer.batch_size=64", "split.pool=300", "fleet.models=4", "secret=s"]


@pytest.fixture
def on_the_device(monkeypatch, tmp_path):
    monkeypatch.setenv(DEVICE_VARIABLE, SIMULATED_NAME)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "palisade" / stack_size.SIZES_FILE


def test_it_is_measured_once_and_changes_no_model(compose, on_the_device, monkeypatch, tmp_path):
    monkeypatch.setattr(stack_size.StepClock, "seconds", lambda self: 1.0)
    settings = compose(*SHORT_RUN, runs=tmp_path)
    with counting() as costs:
        assert for_device(settings, from_config(settings), tmp_path)["fleet"]["at_once"] == 4
    assert costs.total["kernel"] > 0
    assert list(json.loads(on_the_device.read_text()).values()) == [4]
    monkeypatch.setattr(stack_size, "step_cost", lambda *_: pytest.fail("measured again"))
    folder = Path(train_run(settings)["folder"])
    assert Run(folder).models() == [0, 1, 2, 3]
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    alone = Path(train_run(compose(*SHORT_RUN, "fleet.at_once=4", runs=tmp_path / "cpu"))["folder"])
    for k in range(4):
        written = [each / "models" / f"{k}.safetensors" for each in (folder, alone)]
        assert written[0].read_bytes() == written[1].read_bytes()


@pytest.mark.parametrize("changed", ["network.hidden=[32]", "trainer.batch_size=32", "defense=l2"])
def test_another_network_batch_or_defense_is_measured_anew(compose, on_the_device, monkeypatch, tmp_path, changed):
    monkeypatch.setattr(stack_size, "step_cost", lambda fitter, membership, models: StepCost(1.0, 0))
    for settings in (compose(*SHORT_RUN), compose(*SHORT_RUN, changed), compose(*SHORT_RUN, "trainer.epochs=3")):
        for_device(settings, from_config(settings), tmp_path)
    assert len(known_sizes(on_the_device)) == 2


def test_a_damaged_file_costs_a_measurement_alone(tmp_path):
    path = tmp_path / stack_size.SIZES_FILE
    for content in ("", "{", '{"a": 0, "b": "c"}'):
        path.write_text(content)
        assert known_sizes(path) == {}


def test_steps_are_timed_on_the_device(compose, on_the_device):
    settings = compose(*SHORT_RUN, "defense=dp_sgd", "defense.trainer.batch_size=16")
    dataset, membership = from_config(settings), Membership()
    fitter = make_fitter({**settings, "fleet": {"at_once": 1}}, dataset, Secret.from_text("s"), [0], membership)
    with counting() as costs:
        cost = stack_size.step_cost(fitter, membership, 2)
    assert 0 < cost.seconds < 10
    assert costs.total["kernel"] > 0


@pytest.mark.parametrize("setting", ["fleet.at_once=2", "defense=selena"])
def test_a_wish_is_a_wish(compose, on_the_device, monkeypatch, tmp_path, setting):
    monkeypatch.setattr(stack_size, "step_cost", lambda *_: StepCost(1.0, 0))
    settings = compose(*SHORT_RUN, setting)
    assert for_device(settings, from_config(settings), tmp_path)["fleet"]["at_once"] in (2, 4)


def test_on_a_cpu_nothing_is_measured(compose, monkeypatch, tmp_path):
    monkeypatch.setattr(stack_size, "step_cost", lambda *_: pytest.fail("measured"))
    settings = compose(*SHORT_RUN)
    assert for_device(settings, from_config(settings), tmp_path) is settings


def test_one_process_uses_a_gpu(monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, SIMULATED_NAME)
    monkeypatch.setattr(local, "cores", lambda: 5)
    engine = LocalEngine()
    assert [engine.count("auto"), engine.count(3)] == [engine.sharing("auto"), engine.sharing(3)] == [1, 3]
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert [engine.count("auto"), engine.count(3)] == [5, 3]


def test_a_network_of_ones_own_is_trained_alone(compose):
    settings = compose(*SHORT_RUN)
    fitter = make_fitter(
        {**settings, "fleet": {"at_once": 1}}, from_config(settings), Secret.from_text("s"), [0], Membership()
    )
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert has_stacked_form(fitter, fitter.initial_network(0))
    assert not has_stacked_form(fitter, own)


def test_noise_ahead_of_its_time_is_the_same_in_a_stack(compose, monkeypatch):
    settings = compose("data=digits", "defense=dp_sgd", "defense.trainer.epochs=1", "network.hidden=[16]")
    here = fit(settings, [0, 1], at_once=2)
    monkeypatch.setattr(noise, "MIN_VALUES_PER_THREAD", 1)
    monkeypatch.setattr(fleets.OfFleet, "_ahead", lambda self: True)
    there = fit(settings, [0, 1], at_once=2)
    assert all(difference(*pair) == 0 for pair in zip(here.states, there.states, strict=True))
