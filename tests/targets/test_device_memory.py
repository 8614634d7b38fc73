"""A trained fleet holds nothing on the device: models that follow have all of its memory."""

from __future__ import annotations

import gc

import pytest
from device_fits import QUICK_DP_SGD, SETTLED_FAST, trained, with_trainer
from simulated_device import SIMULATED_DEVICE, SimulatedTensor

from palisade.data import placement
from palisade.data.dataset import from_config
from palisade.targets.defaults import resolved

HOLDING_DEFENSES = {
    "none": ([], 3),
    "dp_sgd": ([*QUICK_DP_SGD, "defense.weight_averaging=true", "defense.clipping=adaptive"], 3),
    "dp_sgd alone": ([*QUICK_DP_SGD, "defense.per_record=alone"], 1),
    "early_stopping": (["defense=early_stopping", "defense.patience=1"], 3),
    "adversarial_regularization": (
        ["defense=adversarial_regularization", "defense.weight=0.1", "trainer.optimizer.lr=0.02"],
        1,
    ),
    "selena": (["defense=selena", "defense.sub_models=3", "defense.left_out=1"], 1),
    "distillation": (["defense=distillation"], 3),
    "mixup": (["defense=mixup"], 3),
}
QUICK_FITS = ("none", "dp_sgd", "adversarial_regularization", "distillation")


def there() -> list[SimulatedTensor]:
    """Tensors of the device, but for records, which models that follow are trained on too."""
    gc.collect()
    records = {id(each) for each in placement._placed.values()}
    return [each for each in gc.get_objects() if type(each) is SimulatedTensor and id(each) not in records]


@pytest.mark.parametrize(
    "name",
    [*QUICK_FITS, *(pytest.param(name, marks=pytest.mark.slow) for name in HOLDING_DEFENSES if name not in QUICK_FITS)],
)
def test_a_fleet_holds_no_memory_of_the_device(compose, name):
    words, models = HOLDING_DEFENSES[name]
    roles = ["split.pool=0.1", "split.validation=0.05", "split.reference=0.1"]
    settings = compose("data=digits", "network=mlp", "network.hidden=[16]", *roles, *words)
    settings = with_trainer(resolved(settings, from_config(settings)), epochs=2, batch_size=24)
    before = {id(each) for each in there()}
    settled = SETTLED_FAST if name == "dp_sgd" else {}
    fleet = trained(settings, models, SIMULATED_DEVICE, settled=settled)
    assert len(fleet) == models
    assert not [each.shape for each in there() if id(each) not in before]
