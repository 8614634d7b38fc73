"""Poisson batches of a fixed width train what batches as they are drawn do: padded rows count for nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from simulated_device import SIMULATED_DEVICE

from palisade.data.dataset import from_config
from palisade.data.loaders import Poisson, fixed_width
from palisade.data.placement import CPU
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import fleets
from palisade.defenses.dp_sgd.microbatches import PhysicalBatches
from palisade.targets.training import make_fitter

MAX_ROUNDING = 1e-5
SHORT_FIT = [
    *("data=digits", "defense=dp_sgd", "defense.trainer.epochs=2", "defense.trainer.batch_size=32"),
    *("defense.trainer.optimizer.lr=0.1", "split.pool=200"),
]


@pytest.fixture
def fit(compose, monkeypatch):
    def trained(*overrides, width=None, device=CPU, models=2):
        """Weights of models that were trained with steps of this width, whatever the device."""
        monkeypatch.setattr(fleets, "FIXED_SHAPE_DEVICES", () if width is None else (device.type,))
        monkeypatch.setattr(fleets, "fixed_width", lambda expected: width)
        settings = compose(*SHORT_FIT, "network=mlp", "network.hidden=[16]", *overrides)
        dataset, secret, membership = from_config(settings), Secret.from_text("width"), Membership()
        numbers = list(range(models))
        alone = {**settings, "fleet": {**settings["fleet"], "at_once": models}}
        fitter = replace(make_fitter(alone, dataset, secret, numbers, membership), device=device)
        return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, numbers, secret)).states

    return trained


def distance(one, other) -> float:
    return max(float((a[name] - b[name]).abs().max()) for a, b in zip(one, other, strict=True) for name in a)


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
def test_padded_rows_count_for_nothing(fit, clipping, models):
    clipped = f"defense.clipping={clipping}"
    assert distance(fit(clipped, models=models), fit(clipped, models=models, width=64)) < MAX_ROUNDING


@pytest.mark.parametrize("base", ["dropout", "augmentation", "hamp"])
def test_what_a_base_draws_is_the_same(fit, base):
    base = f"defense@defense.base={base}"
    assert distance(fit(base), fit(base, width=64)) < MAX_ROUNDING


def test_a_step_with_more_rows_goes_through_the_network_in_parts(fit, monkeypatch):
    whole, parts = fit(models=2), []
    monkeypatch.setattr(PhysicalBatches, "__init__", noting_parts(PhysicalBatches.__init__, parts))
    assert distance(whole, fit(models=2, width=16)) < MAX_ROUNDING
    assert {rows[-1] for rows in parts} == {16}


def noting_parts(original, parts):
    def init(self, training_step, **settings):
        def noted(batch, *rest):
            parts.append(batch.y.shape)
            return training_step(batch, *rest)

        original(self, noted, **settings)

    return init


@pytest.mark.parametrize("models", [1, 3])
def test_on_a_device_they_are_bit_equal_to_the_cpus(fit, models):
    here, there = fit(models=models, width=64), fit(models=models, width=64, device=SIMULATED_DEVICE)
    assert distance(here, there) == 0


def test_every_step_has_one_shape_and_the_records_that_were_drawn():
    members = [np.arange(0, 500), np.arange(300, 700)]
    schedule = TrainingSchedule(size=450, batch_size=50, epochs=1)
    steps, padded = (
        list(Poisson(members, [0, 1], schedule, Secret.from_text("s"), width=width)) for width in (None, 128)
    )
    assert {index.shape for index, _ in padded} == {(2, 128)}
    for (index, mask), (wide, wide_mask) in zip(steps, padded, strict=True):
        assert np.array_equal(index[mask], wide[wide_mask])


@pytest.mark.parametrize(("expected", "width"), [(1, 64), (16, 64), (64, 128), (256, 384), (4096, 4480)])
def test_width_is_six_deviations_above_the_expected_rows(expected, width):
    assert fixed_width(expected) == width >= expected + 6 * math.sqrt(expected)
    assert width % 64 == 0


def test_shapes_are_fixed_on_gpus_alone():
    def width(name, rows_per_unit=1):
        fitter = SimpleNamespace(device=torch.device(name), recipe=SimpleNamespace(batch_size=64))
        return fleets.step_width(fitter, rows_per_unit)

    assert (width("cpu"), width("cuda"), width("cuda:1"), width("mps"), width("cuda", 3)) == (None, 128, 128, 128, 384)
