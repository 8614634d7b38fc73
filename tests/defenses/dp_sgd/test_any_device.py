"""The callback on people's own modules on a device: the weights of the CPU, bit by bit, in all three ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from device_fits import check_states
from simulated_device import SIMULATED_DEVICE, counting
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from user_modules import FAST_MODULES, TEST_SECRET, blobs

from palisade.data.placement import CPU
from palisade.defenses.dp_sgd import DPSGD
from palisade.targets.device import trainer_arguments

QUICK_MODULES = ("group norm", "tied")


@pytest.fixture(autouse=True)
def plain_attention() -> Iterator[None]:
    """The CPU's fused attention rounds otherwise."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(fused)


def fit(
    device: torch.device,
    kind: type[pl.LightningModule],
    data: Any,
    *,
    epochs: int = 2,
    resume: Any = None,
    **settings: Any,
) -> pl.Trainer:
    """A fit of three steps an epoch."""
    torch.manual_seed(1)
    callback = DPSGD(noise_multiplier=1.0, max_grad_norm=0.5, secret=TEST_SECRET, **settings)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments(device),
    )
    module = kind()
    trainer.fit(module, DataLoader(data, batch_size=4), ckpt_path=resume)
    return trainer


def check_equal(kind: type[pl.LightningModule], data: Any, **settings: Any) -> None:
    here = fit(CPU, kind, data, **settings)
    with counting() as costs:
        there = fit(SIMULATED_DEVICE, kind, data, **settings)
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    assert here.callbacks[0].choice.way == there.callbacks[0].choice.way
    check_states([here.lightning_module.state_dict()], [there.lightning_module.state_dict()])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["fast", "functional", "alone"])
@pytest.mark.parametrize(
    "name", [name if name in QUICK_MODULES else pytest.param(name, marks=pytest.mark.slow) for name in FAST_MODULES]
)
def test_three_ways(name, way):
    kind, data = FAST_MODULES[name]
    check_equal(kind, data(), per_record=way)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"max_physical_batch": 2, "clipping": "adaptive"}, {"secure_rng": True}])
def test_settings_of_the_callback(settings):
    check_equal(FAST_MODULES["group norm"][0], blobs(), **settings)


@pytest.mark.filterwarnings("ignore")
def test_resumed_on_another_device(tmp_path: Path):
    kind, data = FAST_MODULES["linear"][0], blobs()
    whole = fit(CPU, kind, data, epochs=4, clipping="adaptive")
    fit(SIMULATED_DEVICE, kind, data, clipping="adaptive").save_checkpoint(tmp_path / "half.ckpt")
    for device in (CPU, SIMULATED_DEVICE):
        rest = fit(device, kind, data, epochs=4, resume=tmp_path / "half.ckpt", clipping="adaptive")
        check_states([whole.lightning_module.state_dict()], [rest.lightning_module.state_dict()])
