import gzip
import hashlib
import lzma
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from palisade.data import images
from palisade.data.dataset import prepare
from palisade.data.images import CIFAR10, MNIST, ArraysOnly, FashionMNIST
from palisade.data.scattering import Scattering
from palisade.data.split import Roles
from palisade.train import train_run

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
FIRST_LABELS = {MNIST: ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4]), FashionMNIST: ([9, 0, 0, 3, 0], [9, 2, 1, 1, 6])}
CIFAR10_TEST_BATCH = "cifar-10-batches-py/test_batch"
needs_idx = pytest.mark.skipif(
    not all((SHARED_DATA / kind().name / "t10k-labels-idx1-ubyte.gz").is_file() for kind in FIRST_LABELS),
    reason="the files of MNIST and Fashion-MNIST are not under ../shared/data",
)
needs_cifar = pytest.mark.skipif(
    not (SHARED_DATA / "cifar10" / f"{CIFAR10_TEST_BATCH}.xz").is_file(),
    reason="CIFAR-10 is not under ../shared/data/cifar10",
)


@needs_idx
@pytest.mark.parametrize("kind", FIRST_LABELS)
def test_the_published_idx_files(kind):
    records = kind(root=str(SHARED_DATA / kind().name)).load()
    assert records.rows.shape == (70_000, 1, 28, 28) and records.rows.dtype == np.uint8
    first, first_test = FIRST_LABELS[kind]
    assert records.labels[:5].tolist() == first and records.labels[60_000:60_005].tolist() == first_test
    assert len(records.classes) == 10 and np.bincount(records.labels[60_000:]).sum() == 10_000
    assert records.published_test.tolist() == list(range(60_000, 70_000))
    assert records.published.startswith("md5:") and len(records.published.split()) == 4
    inputs = records.preprocessing(records.rows[:60_000])
    assert abs(inputs.mean()) < 1e-3 and inputs.std() == pytest.approx(1, abs=1e-3)


@needs_idx
def test_a_convolutional_network_trains_on_the_published_split(compose):
    settings = compose(
        *("data=fashion_mnist", f"data.root={SHARED_DATA / 'fashion_mnist'}", "network=cnn", "secret=test"),
        *("split.pool=200", "split.test=published", "fleet.models=1", "trainer.epochs=2"),
    )
    folder = Path(train_run(settings)["folder"])
    assert load_file(folder / "models" / "0.safetensors")["0.weight"].shape == (16, 1, 3, 3)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A user's folder with one of the batches as it was published."""
    root = tmp_path_factory.mktemp("cifar10")
    (root / CIFAR10_TEST_BATCH).parent.mkdir()
    (root / CIFAR10_TEST_BATCH).write_bytes(
        lzma.decompress((SHARED_DATA / "cifar10" / f"{CIFAR10_TEST_BATCH}.xz").read_bytes())
    )
    return root


@pytest.fixture
def one_batch(monkeypatch):
    """As if CIFAR-10 were its test part alone: decompressing all of it takes half a minute."""
    monkeypatch.setattr(CIFAR10, "checksums", {"test_batch": CIFAR10.checksums["test_batch"]})


@needs_cifar
def test_a_published_cifar_batch(cifar, one_batch):
    records = CIFAR10(root=str(cifar)).load()
    assert records.rows.shape == (10_000, 3, 32, 32) and records.rows.dtype == np.uint8
    assert [records.classes[label] for label in records.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    assert np.bincount(records.labels).tolist() == [1000] * 10
    inputs = records.preprocessing(records.rows)
    np.testing.assert_allclose(inputs.mean(axis=(0, 2, 3)), 0, atol=0.03)
    np.testing.assert_allclose(inputs.std(axis=(0, 2, 3)), 1, atol=0.03)


@needs_cifar
def test_a_convolutional_network_trains_on_cifar(compose, cifar, one_batch):
    settings = compose(
        *("data=cifar10", f"data.root={cifar}", "network=cnn", "split.pool=200", "split.test=100", "secret=test"),
        *("fleet.models=1", "trainer.epochs=1"),
    )
    folder = Path(train_run(settings)["folder"])
    assert load_file(folder / "models" / "0.safetensors")["0.weight"].shape == (16, 3, 3, 3)


@needs_cifar
@pytest.mark.slow
def test_all_of_cifar():
    records = CIFAR10(root=str(SHARED_DATA / "cifar10")).load()
    assert records.rows.shape == (60_000, 3, 32, 32) and records.labels[:4].tolist() == [6, 9, 9, 4]
    assert np.bincount(records.labels[:50_000]).tolist() == [5000] * 10
    assert records.published_test.tolist() == list(range(50_000, 60_000))


def write_idx(root, monkeypatch, kind=MNIST, records=30):
    """A tiny data set in the format of MNIST, with checksums that agree."""
    checksums = {}
    generator = np.random.default_rng(0)
    for part, count in (("train", records), ("t10k", records // 3)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
            content = gzip.compress(header + values.tobytes())
            (root / f"{part}-{name}-ubyte.gz").write_bytes(content)
            checksums[f"{part}-{name}-ubyte.gz"] = md5(content)
    monkeypatch.setattr(kind, "checksums", checksums)


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_scattering_features_are_those_of_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_idx(tmp_path, monkeypatch)
    pixels = MNIST(root=str(tmp_path)).load()
    dataset = prepare(MNIST(root=str(tmp_path), features="scattering"), Roles(pool=0.9, test="published"), seed=0)
    assert dataset.split.test.tolist() == list(range(30, 40)) and len(dataset.split.pool) == 27
    assert np.array_equal(dataset.x, Scattering(image=(1, 28, 28))(pixels.rows)) and dataset.shape == (81, 7, 7)


def test_nothing_is_interpreted_before_its_checksum_is_right(tmp_path, monkeypatch):
    write_idx(tmp_path, monkeypatch)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"something else")

    def never(*_, **__):
        raise AssertionError("interpreted")

    monkeypatch.setattr(images.gzip, "decompress", never)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz has md5 6c7ba9c5a141…, the published file has"):
        MNIST(root=str(tmp_path)).load()
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"something else")
    monkeypatch.setattr(images, "ArraysOnly", never)
    with pytest.raises(ValueError, match=r"data_batch_1 has md5 6c7ba9c5a141…, the published file has c99cafc15224…"):
        CIFAR10(root=str(tmp_path)).load()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_no_code_even_if_its_checksum_were_right(tmp_path, monkeypatch, protocol):
    harm = tmp_path / "harm"
    content = pickle.dumps({"data": Malicious(str(harm)), "labels": [0]}, protocol)
    (tmp_path / CIFAR10_TEST_BATCH).parent.mkdir()
    (tmp_path / CIFAR10_TEST_BATCH).write_bytes(content)
    monkeypatch.setattr(CIFAR10, "checksums", {"test_batch": md5(content)})
    with pytest.raises(ValueError, match=r"^the pickle asks for \w+\.mkdir; only arrays may be in it, do not use this"):
        CIFAR10(root=str(tmp_path)).load()
    assert not harm.exists()
    pickle.loads(content)  # what the test guards against does happen without the guard
    assert harm.exists()


@pytest.mark.parametrize(
    "name", ["numpy.load", "numpy.core.multiarray.fromfile", "builtins.eval", "numpy.linalg.ndarray"]
)
def test_numpy_is_no_way_around(tmp_path, name):
    module, function = name.rsplit(".", 1)
    with pytest.raises(ValueError, match=f"^the pickle asks for {name}; only arrays"):
        ArraysOnly((tmp_path / "empty").open("wb+")).find_class(module, function)


def test_unknown_features():
    with pytest.raises(ValueError, match=r"^features=wavelets: expected one of pixels, scattering; "):
        MNIST(features="wavelets")
