"""What a step of training costs on a device: copies, synchronizations and kernels, counted on the simulated one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from device_fits import QUICK_DP_SGD, SETTLED_FAST, trained
from simulated_device import SIMULATED_DEVICE, Costs, counting

STACKED_MODELS = 8
MAX_KERNELS_PER_PRIVATE_STEP = {"flat": 90, "per_layer": 90, "automatic": 90, "adaptive": 110}
MAX_KERNELS_PER_PLAIN_STEP = 35
MAX_RECORDS_PER_STEP = 80
"""Expected are 32, in Poisson batches as well."""


@dataclass(eq=False)
class StepCosts(pl.Callback):
    """Follows a training as a tracker does, and counts from the end of one step to that of the next in its epoch."""

    costs: Costs
    steps: list[tuple[Counter[str], Counter[str]]] = field(default_factory=list)

    def follow(self, *_: Any) -> pl.Callback:
        """Itself: the callback of the models that are trained together."""
        return self

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append((self.costs.total.copy(), self.costs.copied_bytes.copy()))

    def each(self, steps_per_epoch: int) -> list[tuple[Counter[str], Counter[str]]]:
        """Counts and bytes of every step but the first of an epoch."""
        return [
            (later[0] - former[0], later[1] - former[1])
            for number, (former, later) in enumerate(zip(self.steps, self.steps[1:], strict=False), start=1)
            if number % steps_per_epoch
        ]


def step_costs(
    settings, models: int, settled=SETTLED_FAST
) -> tuple[Costs, Sequence[tuple[Counter[str], Counter[str]]]]:
    """Costs of a fleet's training on the device, in all and of each step."""
    with counting() as costs:
        tracker = StepCosts(costs)
        trained(settings, models, SIMULATED_DEVICE, tracker=tracker, settled=settled)
    assert costs.total["random"] == 0
    return costs, tracker.each(steps_per_epoch=len(tracker.steps) // EPOCHS_PER_FIT)


EPOCHS_PER_FIT = 3
SHORT_FIT = ["data=digits", "network=mlp", "trainer.epochs=3", "trainer.batch_size=32", "split.pool=300"]
PRIVATE_FIT = [*QUICK_DP_SGD, "defense.trainer.epochs=3", "defense.trainer.batch_size=32"]


@pytest.mark.parametrize("clipping", MAX_KERNELS_PER_PRIVATE_STEP)
def test_a_private_step_of_a_stack(compose, clipping):
    settings = compose(*SHORT_FIT, *PRIVATE_FIT, f"defense.clipping={clipping}")
    costs, steps = step_costs(settings, STACKED_MODELS)
    assert len(steps) >= 10
    for counts, _ in steps:
        assert counts["host_to_device"] <= 2, costs.by_line("host_to_device")  # its indices, its noise
        assert counts["device_to_host"] == 0, costs.by_line("device_to_host")
        assert counts["synchronization"] == 0, costs.by_line("synchronization")
        assert 0 < counts["kernel"] <= MAX_KERNELS_PER_PRIVATE_STEP[clipping], costs.by_line("kernel")


@pytest.mark.parametrize("models", [1, STACKED_MODELS])
def test_a_plain_step(compose, models):
    costs, steps = step_costs(compose(*SHORT_FIT), models)
    assert len(steps) >= 8
    for counts, _ in steps:
        assert counts["host_to_device"] <= 1, costs.by_line("host_to_device")
        assert counts["device_to_host"] + counts["synchronization"] == 0, costs.by_line("synchronization")
        assert 0 < counts["kernel"] <= MAX_KERNELS_PER_PLAIN_STEP, costs.by_line("kernel")


SLOWER_FITS = {
    "parts": (["+defense.max_physical_batch=8"], STACKED_MODELS, "fast"),
    "copies": (["defense@defense.base=augmentation", "+defense.augmentations=2"], 2, "fast"),
    "average": (["defense.weight_averaging=true"], STACKED_MODELS, "fast"),
    "functional": ([], 1, "functional"),
    "alone": ([], 1, "alone"),
}
COPIES_OF_NOISE_AND_INDICES = {"parts": 2, "copies": 3, "average": 2}
"""Copies to the device in a step; what goes record by record sends each by itself."""


@pytest.mark.parametrize("name", SLOWER_FITS)
def test_no_private_step_waits_for_the_device(compose, name):
    words, models, way = SLOWER_FITS[name]
    settings = compose(*SHORT_FIT, *PRIVATE_FIT, *words, "split.pool=120", f"defense.per_record={way}")
    costs, steps = step_costs(settings, models, {"per_record": way, "reason": "as a run settles it"})
    assert len(steps) >= 3
    for counts, _ in steps:
        assert counts["device_to_host"] + counts["synchronization"] == 0, costs.by_line(
            "synchronization"
        ) + costs.by_line("device_to_host")
        most = COPIES_OF_NOISE_AND_INDICES.get(name, MAX_RECORDS_PER_STEP)
        assert counts["host_to_device"] <= most, costs.by_line("host_to_device")


def test_no_step_beside_an_adversary_waits_for_the_device(compose):
    words = ["defense=adversarial_regularization", "defense.weight=0.1", "defense.warm_up=1", "split.reference=60"]
    costs, steps = step_costs(compose(*SHORT_FIT, *words, "trainer.optimizer.lr=0.02"), STACKED_MODELS)
    assert len(steps) >= 8
    for counts, _ in steps:
        assert counts["device_to_host"] + counts["synchronization"] == 0, costs.by_line(
            "synchronization"
        ) + costs.by_line("device_to_host")


@pytest.mark.parametrize("defense", [[], PRIVATE_FIT])
@pytest.mark.parametrize("width", [4, 400])
def test_bytes_of_a_step_do_not_depend_on_the_size_of_records(compose, tmp_path, width, defense):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "my.npz", x=random.standard_normal((400, width), dtype=np.float32), y=np.arange(400) % 2)
    data = ["data=npz", f"data.path={tmp_path / 'my.npz'}", "network=linear", *SHORT_FIT[2:]]
    _, steps = step_costs(compose(*data, *defense), models=1)
    noise = 4 * 2 * (width + 1) if defense else 0  # as long as the weights are
    for _, size in steps:
        of_indices = size["host_to_device"] - noise
        assert of_indices % 8 == 0 and 0 < of_indices < 8 * MAX_RECORDS_PER_STEP
