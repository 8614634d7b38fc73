"""Small real data sets that come with scikit-learn: no download, no account."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from palisade.data.preprocessing import Scale
from palisade.data.records import Records

# Smallest and largest value of each feature, as the data set's description publishes them.
BREAST_CANCER_RANGES = (
    *((6.981, 28.11), (9.71, 39.28), (43.79, 188.5), (143.5, 2501.0), (0.053, 0.163)),
    *((0.019, 0.345), (0.0, 0.427), (0.0, 0.201), (0.106, 0.304), (0.05, 0.097)),
    *((0.112, 2.873), (0.36, 4.885), (0.757, 21.98), (6.802, 542.2), (0.002, 0.031)),
    *((0.002, 0.135), (0.0, 0.396), (0.0, 0.053), (0.008, 0.079), (0.001, 0.03)),
    *((7.93, 36.04), (12.02, 49.54), (50.41, 251.2), (185.2, 4254.0), (0.071, 0.223)),
    *((0.027, 1.058), (0.0, 1.252), (0.0, 0.291), (0.156, 0.664), (0.055, 0.208)),
)


@dataclass(frozen=True, kw_only=True)
class Digits:
    """1,797 images of handwritten digits, 8 × 8 pixels of 0..16, 10 classes (Alpaydin & Kaynak, 1998)."""

    name: str = "digits"

    def load(self) -> Records:
        """Images (1, 8, 8), scaled to 0..1."""
        table = np.loadtxt(_path("digits.csv.gz"), delimiter=",")
        return _public(
            Records(
                name=self.name,
                rows=table[:, :-1].reshape(-1, 1, 8, 8),
                labels=table[:, -1].astype(np.int64),
                classes=tuple(map(str, range(10))),
                preprocessing=Scale(shape=(1, 8, 8), factor=(1 / 16,)),
            )
        )


@dataclass(frozen=True, kw_only=True)
class BreastCancer:
    """569 tumors described by 30 numbers, malignant or benign (Wolberg, Street & Mangasarian, 1995)."""

    name: str = "breast_cancer"

    def load(self) -> Records:
        """Rows of 30 numbers, scaled to 0..1 by the ranges that the data set's description publishes."""
        table = np.loadtxt(_path("breast_cancer.csv"), delimiter=",", skiprows=1)
        shift = tuple(low for low, _ in BREAST_CANCER_RANGES)
        factor = tuple(1 / (high - low) for low, high in BREAST_CANCER_RANGES)
        return _public(
            Records(
                name=self.name,
                rows=table[:, :-1],
                labels=table[:, -1].astype(np.int64),
                classes=("malignant", "benign"),
                preprocessing=Scale(shape=(30,), shift=shift, factor=factor),
            )
        )


def _path(name: str) -> Path:
    """A file of scikit-learn's data sets: importing its loaders takes longer than all else that a cached run does."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / name


def _public(records: Records) -> Records:
    """Anyone has these records, so their plain checksum may be published."""
    return replace(records, published=f"sha256:{records.fingerprint()}")
