"""A model is the same on every device; the simulated one shows that without a GPU."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_device import SIMULATED_DEVICE, Costs, counting
from torch.nn.attention import SDPBackend, sdpa_kernel

from palisade.data.dataset import from_config
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.data.text import SST2_CHECKSUMS
from palisade.targets.defaults import resolved
from palisade.targets.fleet import Fleet
from palisade.targets.gradients import layer_norms, slopes
from palisade.targets.networks import MLP
from palisade.targets.training import make_defense, make_fitter
from palisade.targets.transformer import Transformer

SHORT_FIT = ["trainer.epochs=2", "trainer.batch_size=64", "split.pool=300"]


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
        there = fit(settings, SIMULATED_DEVICE, models)
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
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
    check_equal(compose("data=digits", *SHORT_FIT, "fleet.keep_checkpoints=1"), models)


PRIVATE_FIT = [
    "defense=dp_sgd",
    *(f"defense.{each}" for each in SHORT_FIT[:2]),
    "defense.trainer.optimizer.lr=0.1",
    SHORT_FIT[2],
]


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
def test_dp_sgd(compose, clipping, models):
    check_equal(compose("data=digits", "network=mlp", *PRIVATE_FIT, f"defense.clipping={clipping}"), models)


SMALL_FIT = [
    *("data=digits", "network.hidden=[16]", "trainer.batch_size=32", "trainer.optimizer.lr=0.02"),
    *("split.pool=0.2", "split.validation=0.1", "split.reference=0.2"),
]
SHORT_DEFENSES = {
    "pate": ["defense.teachers=3", "defense.queries=50", "defense.noise_multiplier=1"],
    "selena": ["defense.sub_models=3", "defense.left_out=1"],
    "dp_sgd": ["defense.weight_averaging=true"],
    "early_stopping": ["defense.patience=1"],
}
DEFENSE_NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "defense").glob("*.yaml"))


def shortened(defense):
    """Two epochs for a defense and its bases, whatever their own trainers say."""
    base = {"base": shortened(defense["base"])} if "base" in defense else {}
    return {**defense, **base, "trainer": {**(defense.get("trainer") or {}), "epochs": 2}}


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_every_defense(compose, name, models):
    settings = compose(*SMALL_FIT, "trainer.epochs=2", f"defense={name}", *SHORT_DEFENSES.get(name, []))
    settings = {**settings, "defense": shortened(settings["defense"])}
    settings = resolved(settings, from_config(settings))
    if models > 1 and not make_defense(settings["defense"]).stackable:
        pytest.skip("no stacked form")
    check_equal(settings, models)


FILM_TEXTS = [*(f"{number % 7} {number % 5} {'good' if number % 2 else 'bad'} film" for number in range(120))]
NETWORK_SETTINGS = {
    "cnn": ["data=digits", "network=cnn", "network.channels=[4,8]", "split.pool=0.1"],
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


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("defense", ["none", "dp_sgd", "dropout"])
@pytest.mark.parametrize("network", NETWORK_SETTINGS)
def test_networks(compose, sentences, network, defense, models):
    data = [f"data.root={sentences}", "split.pool=60"] if network == "transformer" else []
    settings = compose(
        *(*NETWORK_SETTINGS[network], *data, "trainer.epochs=2", "trainer.batch_size=16", f"defense={defense}"),
        *(["defense.trainer.batch_size=16"] if defense == "dp_sgd" else []),
    )
    settings = {**settings, "defense": shortened(settings["defense"])}
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention rounds otherwise
        check_equal(resolved(settings, from_config(settings)), models)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])  # autograd aborts a vectorized convolution of such devices
def test_signals_of_the_weights(kind):
    torch.manual_seed(0)
    network, x = {
        "mlp": lambda: (MLP(shape=(5,), classes=3, hidden=[4, 4]), torch.randn(150, 5)),
        "transformer": lambda: (
            Transformer(shape=(6,), classes=3, buckets=10, width=8, depth=1, heads=2),
            torch.randint(10, (150, 6)),
        ),
    }[kind]()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    way = {name: torch.randn(value.shape) for name, value in state.items()}
    records = x.numpy(), torch.randint(3, (150,)).numpy()
    here = (*layer_norms(network, state, *records), slopes(network, state, way, *records))
    with counting() as costs:
        there = (
            *layer_norms(network, state, *records, SIMULATED_DEVICE),
            slopes(network, state, way, *records, SIMULATED_DEVICE),
        )
    assert costs.total["kernel"] > 0
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one, other)
