"""A model is the same on every device; the simulated one shows that without a GPU."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from device_fits import QUICK_DP_SGD, SETTLED_FAST, check_equal, trained, with_trainer
from simulated_device import SIMULATED_DEVICE, counting
from torch.nn.attention import SDPBackend, sdpa_kernel

from palisade.data.dataset import from_config
from palisade.data.placement import CPU
from palisade.data.text import SST2_CHECKSUMS
from palisade.defenses.dp_sgd import callback, noise
from palisade.targets.defaults import resolved
from palisade.targets.gradients import layer_norms, slopes
from palisade.targets.networks import CNN, MLP
from palisade.targets.residual import ResNet9
from palisade.targets.training import make_defense
from palisade.targets.transformer import Transformer

DEFENSE_FILES = (Path(__file__).parents[2] / "conf" / "defense").glob("*.yaml")
DEFENSE_NAMES = sorted({path.stem for path in DEFENSE_FILES} - {"rare_removal"})  # which is for documents
SHORT_DEFENSES = {
    "adversarial_regularization": ["defense.weight=0.1", "trainer.optimizer.lr=0.02"],
    "pate": ["defense.teachers=3", "defense.queries=50", "defense.noise_multiplier=1"],
    "selena": ["defense.sub_models=3", "defense.left_out=1"],
    "dp_sgd": [*QUICK_DP_SGD[1:], "defense.weight_averaging=true"],
    "early_stopping": ["defense.patience=1"],
}
UNFIT_NETWORKS = {
    "transformer": dict.fromkeys(("augmentation", "mixup"), "for numbers alone"),
    "resnet9": {"adversarial_regularization": "so narrow a one learns nothing in two epochs, which is refused"},
}


def stackable(settings) -> bool:
    return make_defense(settings["defense"]).stackable


@pytest.mark.parametrize("models", [1, 3])
def test_undefended(compose, models):
    settings = compose("data=digits", "split.pool=300", "fleet.keep_checkpoints=1")
    check_equal(with_trainer(settings, epochs=2, batch_size=64), models)


@pytest.mark.parametrize(
    ("clipping", "models"),
    [
        *(("flat", 3), ("adaptive", 3), ("per_layer", 1)),
        *(
            pytest.param(clipping, models, marks=pytest.mark.slow)
            for clipping, models in (
                *(("flat", 1), ("adaptive", 1), ("per_layer", 3)),
                *(("automatic", 1), ("automatic", 3)),
            )
        ),
    ],
)
def test_dp_sgd(compose, clipping, models):
    settings = compose(*QUICK_DP_SGD, "data=digits", "network=mlp", "split.pool=300", f"defense.clipping={clipping}")
    settings = with_trainer(settings, epochs=2, batch_size=64)
    check_equal(settings, models, settled={} if clipping == "flat" else SETTLED_FAST)


def test_noise_that_a_thread_draws_ahead(compose, monkeypatch):
    drawing = []
    monkeypatch.setattr(noise, "MIN_VALUES_PER_THREAD", 1)
    monkeypatch.setattr(callback, "core_is_idle", lambda: True)
    fill = noise._fill
    monkeypatch.setattr(noise, "_fill", lambda *draw: (drawing.append(threading.current_thread().name), fill(*draw)))
    settings = with_trainer(compose(*QUICK_DP_SGD, "data=digits", "network=mlp", "split.pool=300"), epochs=2)
    trained(settings, 3, CPU, settled=SETTLED_FAST)
    assert set(drawing) == {threading.main_thread().name}  # other cores have models of their own
    drawing.clear()
    check_equal(settings, 3, settled=SETTLED_FAST)
    assert any(name.startswith("noise") for name in drawing)


def of_defense(compose, name: str, *overrides: str):
    """Two epochs of a defense on few records that are dealt out to all roles."""
    roles = ["split.pool=0.12", "split.validation=0.05", "split.reference=0.1"]
    settings = compose(*overrides, *roles, f"defense={name}", *SHORT_DEFENSES.get(name, []))
    return with_trainer(resolved(settings, from_config(settings)), epochs=2, batch_size=24)


@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_every_defense(compose, name):
    settings = of_defense(compose, name, "data=digits", "network=mlp", "network.hidden=[16]")
    check_equal(settings, 3 if stackable(settings) else 1, settled=SETTLED_FAST if name == "dp_sgd" else {})


FILM_TEXTS = [*(f"{number % 7} {number % 5} {'good' if number % 2 else 'bad'} film" for number in range(800))]
NETWORK_SETTINGS = {
    "cnn": ["data=digits", "network=cnn", "network.channels=[4,8]"],
    "resnet9": ["data=digits", "network=resnet9", "network.width=2"],
    "transformer": ["data=sst2", "network=transformer", "network.width=8", "network.depth=1", "network.heads=2"],
}


@pytest.fixture
def sentences(tmp_path, monkeypatch) -> Path:
    """A folder with texts in the form of SST-2."""
    rows = [f"{text}\t{number % 2}" for number, text in enumerate(FILM_TEXTS)]
    content = "\n".join(["sentence\tlabel", *rows]) + "\n"
    for name in SST2_CHECKSUMS:
        (tmp_path / name).write_text(content)
        monkeypatch.setitem(SST2_CHECKSUMS, name, f"md5:{hashlib.md5(content.encode()).hexdigest()}")
    return tmp_path


def check_network(compose, sentences: Path, network: str, name: str, models: int) -> None:
    data = [f"data.root={sentences}"] if network == "transformer" else []
    settings = of_defense(compose, name, *NETWORK_SETTINGS[network], *data)
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention rounds otherwise
        check_equal(settings, models, settled=SETTLED_FAST if name == "dp_sgd" else {})


@pytest.mark.parametrize(
    ("network", "name", "models"),
    [
        pytest.param("resnet9", "dp_sgd", 3, marks=pytest.mark.slow),
        *(("cnn", "none", 3), ("resnet9", "none", 1), ("transformer", "none", 3)),
        pytest.param("transformer", "dp_sgd", 1, marks=pytest.mark.slow),
        *(("cnn", "augmentation", 3), ("transformer", "dropout", 3)),
    ],
)
def test_some_defenses_of_some_networks(compose, sentences, network, name, models):
    check_network(compose, sentences, network, name, models)


@pytest.mark.slow
@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("name", DEFENSE_NAMES)
@pytest.mark.parametrize("network", NETWORK_SETTINGS)
def test_every_defense_of_every_network(compose, sentences, network, name, models):
    if (reason := UNFIT_NETWORKS.get(network, {}).get(name)) is not None:
        pytest.skip(reason)
    if models == 3 and not stackable(of_defense(compose, name, *NETWORK_SETTINGS["cnn"])):
        pytest.skip("no stacked form")
    check_network(compose, sentences, network, name, models)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "resnet9", "transformer"])
def test_signals_of_the_weights(kind):
    torch.manual_seed(0)
    network, x = {
        "mlp": lambda: (MLP(shape=(5,), classes=3, hidden=[4, 4]), torch.randn(150, 5)),
        "cnn": lambda: (CNN(shape=(1, 8, 8), classes=3, channels=[4, 8]), torch.randn(20, 1, 8, 8)),
        "resnet9": lambda: (ResNet9(shape=(1, 8, 8), classes=3, width=2), torch.randn(20, 1, 8, 8)),
        "transformer": lambda: (
            Transformer(shape=(6,), classes=3, buckets=10, width=8, depth=1, heads=2),
            torch.randint(10, (150, 6)),
        ),
    }[kind]()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    way = {name: torch.randn(value.shape) for name, value in state.items()}
    records = x.numpy(), torch.randint(3, (len(x),)).numpy()
    here = (*layer_norms(network, state, *records), slopes(network, state, way, *records))
    with counting() as costs:
        there = (
            *layer_norms(network, state, *records, SIMULATED_DEVICE),
            slopes(network, state, way, *records, SIMULATED_DEVICE),
        )
    assert costs.total["kernel"] > 0
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one, other)
