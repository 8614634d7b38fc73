"""The two experiments on CIFAR-10: the published recipe, what they would take on a GPU, and two steps of each."""

from __future__ import annotations

import lzma
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from palisade.data.dataset import Dataset, from_config
from palisade.data.images import CIFAR10
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd.accounting import Phase, accounted, calibrate
from palisade.targets.fleet import Fleet
from palisade.targets.networks import CNN, MLP
from palisade.targets.plan import GPU_FLOP_PER_SECOND, PASSES_PER_STEP, cost, flop_of_record
from palisade.targets.run import Run
from palisade.targets.statement import Statement
from palisade.targets.training import make_fitter

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
TEST_BATCH = "cifar-10-batches-py/test_batch"
PUBLISHED_RECORDS, PUBLISHED_RATE, PUBLISHED_DELTA = 50_000, 4096 / 50_000, 1e-5
SMALL_PARTS = ("defense.augmentations=2", "defense.max_physical_batch=32")
FEW_IMAGES = ("split.pool=64", "split.test=20", "secret=cifar")
pytestmark = pytest.mark.skipif(not (SHARED_DATA / f"{TEST_BATCH}.xz").is_file(), reason="no ../shared/data/cifar10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with one of the published batches."""
    root = tmp_path_factory.mktemp("cifar10")
    (root / TEST_BATCH).parent.mkdir()
    (root / TEST_BATCH).write_bytes(lzma.decompress((SHARED_DATA / f"{TEST_BATCH}.xz").read_bytes()))
    return root


@pytest.fixture
def one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override for a folder in which CIFAR-10 is one batch: decompressing all of it takes half a minute."""
    monkeypatch.setattr(CIFAR10, "checksums", {"test_batch": CIFAR10.checksums["test_batch"]})
    return f"data.root={folder}"


def trained(settings: dict[str, Any], models: tuple[int, ...]) -> tuple[Dataset, Fleet, Statement]:
    dataset, membership, secret = from_config(settings), Membership(**settings["membership"]), Secret.from_text("two")
    fitter = make_fitter(settings, dataset, secret, list(models), membership)
    assert fitter.schedule.steps == 2
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, list(models), secret))
    return dataset, fleet, fitter.defense.statement(fleet)


def test_two_steps_of_the_fleet(compose: Any, one_batch: str) -> None:
    short = ("trainer.epochs=1", "trainer.batch_size=16", "network.width=8")
    settings = compose("experiment=cifar10_fleet", one_batch, *FEW_IMAGES, *short)
    dataset, fleet, statement = trained(settings, (0, 63))
    assert settings["fleet"]["models"] == 64 and not statement.guarantee
    assert any("running_mean" in name for name in fleet.states[0])
    logits = fleet.predict(dataset.x[dataset.split.test])
    assert logits.shape == (2, 20, 10) and np.isfinite(logits).all()
    assert not np.allclose(logits[0], logits[1])


def test_two_private_steps(compose: Any, one_batch: str) -> None:
    short = ("defense.trainer.epochs=1", "defense.trainer.batch_size=32", "defense.delta=1e-3", "network.width=1")
    settings = compose("experiment=dp_cifar10", one_batch, *FEW_IMAGES, *short, *SMALL_PARTS)
    dataset, fleet, statement = trained(settings, (0,))
    assert statement.epsilon is not None and statement.epsilon <= 1
    assert (statement.augmentations, statement.steps_done, statement.max_grad_norm) == (2, 2, 1.0)
    assert np.isfinite(fleet.predict(dataset.x[dataset.split.test])).all()


@pytest.mark.slow
def test_two_private_steps_of_the_whole_network(compose: Any, one_batch: str) -> None:
    short = ("defense.trainer.epochs=1", "defense.trainer.batch_size=32", "defense.delta=1e-3")
    settings = compose("experiment=dp_cifar10", one_batch, *FEW_IMAGES, *short, "defense.max_physical_batch=64")
    _, fleet, statement = trained(settings, (0,))
    assert sum(value.numel() for value in fleet.states[0].values()) == 2_753_818 and statement.augmentations == 16
    assert statement.epsilon is not None and statement.epsilon <= 1


def test_the_private_recipe_is_the_published_one(compose: Any) -> None:
    settings = compose("experiment=dp_cifar10")
    defense, trainer = settings["defense"], settings["defense"]["trainer"]
    assert (trainer["batch_size"], defense["augmentations"], defense["max_grad_norm"]) == (4096, 16, 1.0)
    assert (trainer["optimizer"]["lr"], trainer["optimizer"]["momentum"], defense["weight_averaging"]) == (2, 0, True)
    assert (defense["epsilon"], defense["delta"]) == (1, PUBLISHED_DELTA)
    steps = trainer["epochs"] * -(-PUBLISHED_RECORDS // trainer["batch_size"])
    assert 865 <= steps <= 875


@pytest.mark.parametrize(
    ("published_noise", "published_steps", "epsilon", "steps"), [(10.0, 875, 1.0, 67 * 13), (3.0, 2500, 8.0, 192 * 13)]
)
def test_published_noise_gives_no_more_than_the_published_epsilon(
    published_noise: float, published_steps: int, epsilon: float, steps: int
) -> None:
    published = accounted((Phase(published_noise, PUBLISHED_RATE, published_steps),), PUBLISHED_DELTA)
    assert 0.8 * epsilon < published.epsilon < published.epsilon_rdp <= epsilon
    noise = calibrate(epsilon, PUBLISHED_DELTA, PUBLISHED_RATE, steps)
    assert 0.8 * published_noise < noise <= published_noise
    assert accounted((Phase(noise, PUBLISHED_RATE, steps),), PUBLISHED_DELTA).epsilon <= epsilon


@pytest.mark.parametrize(
    ("network", "shape", "flop"),
    [
        (lambda: MLP(shape=(20,), classes=3, hidden=[7]), (20,), 2 * (20 * 7 + 7 * 3)),
        (lambda: CNN(shape=(1, 8, 8), classes=3, channels=[4]), (1, 8, 8), 2 * (9 * 4 * 64 + 4 * 16 * 3)),
    ],
    ids=["mlp", "cnn"],
)
def test_operations_of_a_record_are_counted(network: Any, shape: tuple[int, ...], flop: int) -> None:
    records: Any = SimpleNamespace(x=np.zeros((3, *shape), dtype=np.float32))
    assert flop_of_record(network(), records) == flop


def test_plans_say_the_hours_on_a_gpu(compose: Any, one_batch: str, tmp_path: Path) -> None:
    whole = ("split.pool=9000", "split.test=1000")
    products = 432 * 1024 + 2560  # first and last layer of WRN-16-4, then its three stages
    for inputs, outputs, positions in ((16, 64, 1024), (64, 128, 256), (128, 256, 64)):
        products += positions * (9 * inputs * outputs + 27 * outputs**2 + inputs * outputs)
    settings = compose("experiment=dp_cifar10", one_batch, *whole)
    dataset = from_config(settings)
    costs = cost(Run(tmp_path / "none"), settings, dataset, [0])
    rows = 67 * -(-9000 // 4096) * 4096 * 16
    expected = 2 * PASSES_PER_STEP * 2 * products * rows / GPU_FLOP_PER_SECOND / 3600  # private steps cost twice
    assert costs["gpu_hours"] == pytest.approx(expected, rel=1e-6)
    assert cost(Run(tmp_path / "none"), settings, dataset, [0, 1])["gpu_hours"] == pytest.approx(2 * expected)
