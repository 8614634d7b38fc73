"""Your own data as arrays: an .npz file, or a folder of .npy files that stay on disk."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from datamodules.preprocessing import Scale
from datamodules.records import Records, name_of
from datamodules.rows import check_finite

KEYS = ("x", "y", "persons")


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Numbers that need no preprocessing: scale them beforehand, with constants.

    Arrays of objects are refused, because reading them would run code from the file.

    Args:
        path: an `.npz` file with the keys `x` (records, ...), `y` (records,), and optionally `persons` (records,),
            numbers or words that name the person behind each record. Or a folder with `x.npy`, `y.npy` and
            optionally `persons.npy`: then x is memory-mapped and may be larger than memory (if it is float32).
        name: of the data set; None takes the name of the file or folder.
    """

    path: str
    name: str | None = None

    def load(self) -> Records:
        """Rows x, labels y that must be 0..C−1 with every number occurring.

        Raises:
            FileNotFoundError: if there is nothing at `path`.
            ValueError: if the content cannot be read or is no classification task.
        """
        path = Path(self.path).expanduser()
        arrays = self._read(path)
        for key in ("x", "y"):
            if key not in arrays:
                raise ValueError(f"data.path={self.path} has no {key}; save x (records, ...) and y (records,)")
        x, y = arrays["x"], arrays["y"]
        if x.ndim < 2 or x.size == 0:
            raise ValueError(
                f"data.path={self.path}: x has shape {x.shape}; save (records, features) or (records, ...)"
            )
        check_finite(f"data.path={self.path}: x", x)
        labels = self._labels(y, len(x))
        return Records(
            name=self.name or name_of(path),
            rows=x,
            labels=labels,
            classes=tuple(str(number) for number in range(labels.max() + 1)),
            persons=self._persons(arrays["persons"], len(x)) if "persons" in arrays else None,
            preprocessing=Scale(shape=x.shape[1:]),
        )

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        if not path.exists():
            raise FileNotFoundError(
                f"data.path={self.path} does not exist; give an .npz file or a folder of .npy files"
            )
        try:
            if path.is_dir():
                files = {key: path / f"{key}.npy" for key in KEYS}
                return {
                    key: np.asarray(np.load(file, mmap_mode="r" if key == "x" else None))
                    for key, file in files.items()
                    if file.exists()
                }
            archive = np.load(path)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an archive")
            with archive:
                return {key: archive[key] for key in KEYS if key in archive}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                reason, remedy = "it holds Python objects, and reading them could run code", "save numbers only"
            else:
                reason, remedy = " ".join(str(error).split()), "write it afresh with numpy.savez(path, x=x, y=y)"
            raise ValueError(f"data.path={self.path} cannot be read: {reason}; {remedy}") from None

    def _labels(self, y: Shaped[np.ndarray, "..."], records: int) -> Int64[np.ndarray, " records"]:
        if y.shape != (records,):
            raise ValueError(
                f"data.path={self.path}: y has shape {y.shape}; x has {records} records, save ({records},)"
            )
        if y.dtype.kind not in "iu":
            raise ValueError(
                f"data.path={self.path}: y has dtype {y.dtype}; labels are whole numbers, save y.astype(int)"
            )
        distinct = np.unique(y)
        if distinct[0] != 0 or distinct[-1] != len(distinct) - 1:
            raise ValueError(
                f"data.path={self.path}: y has {len(distinct)} labels from {distinct[0]} to {distinct[-1]}; "
                f"they must be 0..{len(distinct) - 1}, save numpy.unique(y, return_inverse=True)[1]"
            )
        return y.astype(np.int64)

    def _persons(self, persons: Shaped[np.ndarray, "..."], records: int) -> Int64[np.ndarray, " records"]:
        if persons.shape != (records,) or persons.dtype.kind not in "iuUS":
            raise ValueError(
                f"data.path={self.path}: persons has shape {persons.shape} and dtype {persons.dtype}; "
                f"save ({records},) whole numbers or words"
            )
        return np.unique(persons, return_inverse=True)[1].astype(np.int64)
