"""Public sets of small images: MNIST, Fashion-MNIST and CIFAR-10, as their publishers distribute them."""

from __future__ import annotations

import gzip
import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from palisade.data.files import PublishedFile
from palisade.data.preprocessing import Preprocessing, Scale
from palisade.data.records import Records
from palisade.data.scattering import Scattering
from palisade.fields import CheckedFields

WHITE_PIXEL = 255


@dataclass(frozen=True, kw_only=True)
class Images(CheckedFields, ABC):
    """Images (channels, height, width) of 8-bit pixels; the publisher's training records come before its test records.

    Args:
        name: of the data set.
        root: folder that holds the published files. What is not there is downloaded once from its publisher into the
            user's cache. Either way its checksum must be the published one, before anything of it is interpreted.
        features: `pixels`, standardized by published constants, or `scattering`, computed once (`Scattering`).

    Raises:
        ValueError: if `features` is unknown.
    """

    classes: ClassVar[tuple[str, ...]]
    mean: ClassVar[tuple[float, ...]]
    """Of each channel's pixels, 0 to 1, over the publisher's training records, as it is commonly quoted."""
    deviation: ClassVar[tuple[float, ...]]
    checksums: ClassVar[Mapping[str, str]]
    """MD5 of each published file."""

    name: str
    root: str | None = None
    features: Literal["pixels", "scattering"] = "pixels"

    def load(self) -> Records:
        """Images, their classes in words, and which of them were published for testing.

        Raises:
            ValueError: if a file is not the published one.
            OSError: if a file cannot be downloaded.
        """
        parts = self.read()
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Records(
            name=self.name,
            rows=images,
            labels=labels.astype(np.int64),
            classes=self.classes,
            published=" ".join(f"md5:{checksum}" for checksum in self.checksums.values()),
            preprocessing=self._preprocessing(images.shape[1:]),
            published_test=np.arange(len(images) - len(parts[-1][0]), len(images)),
        )

    @abstractmethod
    def read(self) -> list[tuple[UInt8[np.ndarray, "records channels height width"], Int64[np.ndarray, " records"]]]:
        """Images and labels part by part, the publisher's test part last."""

    def _preprocessing(self, shape: tuple[int, ...]) -> Preprocessing:
        if self.features == "scattering":
            return Scattering(image=shape)
        shift = tuple(WHITE_PIXEL * mean for mean in self.mean)
        return Scale(shape=shape, shift=shift, factor=tuple(1 / (WHITE_PIXEL * value) for value in self.deviation))


class Idx(Images):
    """Sets in the IDX format of MNIST: two gzip files, images and labels, for training and for testing."""

    url: ClassVar[str]

    def read(self) -> list[tuple[UInt8[np.ndarray, "records channels height width"], Int64[np.ndarray, " records"]]]:
        """Images and labels of the training file, then of the test file."""
        return [
            (
                self._array(f"{part}-images-idx3-ubyte.gz")[:, None],
                self._array(f"{part}-labels-idx1-ubyte.gz").astype(np.int64),
            )
            for part in ("train", "t10k")
        ]

    def _array(self, name: str) -> UInt8[np.ndarray, "records ..."]:
        file = PublishedFile(name=name, checksum=f"md5:{self.checksums[name]}", url=f"{self.url}/{name}")
        content = gzip.decompress(file.read(self.root))
        dimensions = content[3]  # after two zeros and the code of unsigned bytes
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class MNIST(Idx):
    """70,000 handwritten digits, 28 × 28 (LeCun, Bottou, Bengio & Haffner, 1998)."""

    name: str = "mnist"
    classes = tuple(map(str, range(10)))
    mean, deviation = (0.1307,), (0.3081,)
    url = "https://ossci-datasets.s3.amazonaws.com/mnist"
    checksums = {  # noqa: RUF012 (never changed)
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Idx):
    """70,000 pieces of clothing, 28 × 28 (Xiao, Rasul & Vollgraf, "Fashion-MNIST", 2017)."""

    name: str = "fashion_mnist"
    classes = (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    mean, deviation = (0.2860,), (0.3530,)
    url = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
    checksums = {  # noqa: RUF012 (never changed)
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }


@dataclass(frozen=True, kw_only=True)
class CIFAR10(Images):
    """60,000 photographs in color, 32 × 32 (Krizhevsky, "Learning Multiple Layers of Features", 2009)."""

    name: str = "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    archive: ClassVar[str] = "c58f30108f718f92721af3b95e74349a"
    checksums = {  # noqa: RUF012 (never changed)
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }

    def read(self) -> list[tuple[UInt8[np.ndarray, "records channels height width"], Int64[np.ndarray, " records"]]]:
        """Images and labels of the five training batches, then of the test batch."""
        return [self._batch(name) for name in self.checksums]

    def _batch(
        self, name: str
    ) -> tuple[UInt8[np.ndarray, "records channels height width"], Int64[np.ndarray, " records"]]:
        file = PublishedFile(
            name=f"cifar-10-batches-py/{name}",
            checksum=f"md5:{self.checksums[name]}",
            url=self.url,
            archive=f"md5:{self.archive}",
        )
        batch = ArraysOnly(io.BytesIO(file.read(self.root)), encoding="latin1").load()
        return batch["data"].reshape(-1, 3, 32, 32), np.array(batch["labels"], dtype=np.int64)


class ArraysOnly(pickle.Unpickler):
    """Reads a pickle of plain values and NumPy arrays; a pickle that asks for anything else could run its own code."""

    def find_class(self, module: str, name: str) -> Any:
        """Look-up of a name in the pickle: the few that arrays are made of, ValueError for any other."""
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _empty
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise ValueError(f"the pickle asks for {module}.{name}; only arrays may be in it, do not use this file")


def _empty(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """The array before its state, as NumPy's own reconstruction makes it."""
    return np.ndarray.__new__(np.ndarray, shape, dtype=np.int8)
