"""Your own data as arrays: an .npz file, or a folder of .npy files that stay on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.files import read_arrays
from palisade.data.origins import Origins
from palisade.data.preprocessing import Scale
from palisade.data.records import Records, name_of
from palisade.data.rows import check_finite
from palisade.data.settings import place
from palisade.data.slices import Slices, check_columns

ARRAY_KEYS = ("x", "y", "persons")
SLICE_PREFIX = "slice_"
"""Beginning of the key of a slice."""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Numbers that need no preprocessing: scale them beforehand, with constants.

    Arrays of objects are refused, because reading them would run code from the file.

    Args:
        path: an `.npz` file with the keys `x` (records, ...), `y` (records,), and optionally `persons` (records,),
            numbers or words that name the person behind each record. Or a folder with `x.npy`, `y.npy` and
            optionally `persons.npy`: then x is memory-mapped and may be larger than memory (if it is float32).
        slices: names of groups by which results are read: `sex` is the key `slice_sex` (records,), numbers or words.
        name: of the data set; None takes the name of the file or folder.

    Raises:
        ValueError: if slices are no list.
    """

    path: str
    slices: Sequence[str] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        check_columns(self.slices)

    def load(self) -> Records:
        """Rows x, labels y that must be 0..C−1 with every number occurring.

        Raises:
            FileNotFoundError: if there is nothing at `path`.
            ValueError: if the content cannot be read or is no classification task.
        """
        arrays = self._read(ARRAY_KEYS)
        for key in ("x", "y"):
            if key not in arrays:
                raise ValueError(
                    f"data.path={self.path}: array {key} is missing; save x (records, ...) and y (records,)"
                )
        x, y = arrays["x"], arrays["y"]
        if x.ndim < 2 or x.size == 0:
            raise ValueError(
                f"data.path={self.path}: x has shape {x.shape}; save (records, features) or (records, ...)"
            )
        check_finite(f"data.path={self.path}: x", x)
        labels = self._labels(y, len(x))
        self._slices(len(x))  # what is wrong with them is said before anything is trained
        return Records(
            name=self.name or name_of(self.path),
            rows=x,
            labels=labels,
            classes=tuple(str(number) for number in range(labels.max() + 1)),
            persons=None if "persons" not in arrays else self._named("persons", arrays["persons"], len(x))[1],
            preprocessing=Scale(shape=x.shape[1:]),
        )

    def read_origins(self) -> Origins:
        """The array of persons; arrays have no lines."""
        persons = self._read(("persons",)).get("persons")
        return Origins(persons=None if persons is None else [str(word) for word in persons.tolist()])

    def read_slices(self) -> Slices:
        """The arrays of the slices.

        Raises:
            ValueError: if one is absent, names no group for each record, or names too many.
        """
        return self._slices(len(self._read(("y",))["y"]))

    def _slices(self, records: int) -> Slices:
        keys = {name: f"{SLICE_PREFIX}{name}" for name in self.slices}
        arrays = self._read(tuple(keys.values()))
        words = {}
        for name, key in keys.items():
            if key not in arrays:
                raise ValueError(f"data.slices={name}: expected an array {key} in {self.path}; save one word a record")
            groups, of_record = self._named(key, arrays[key], records)
            words[name] = groups.astype(str)[of_record]
        return Slices(words=words)

    def _read(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        path = place("data.path", self.path)
        if not path.exists():
            raise FileNotFoundError(
                f"data.path={self.path}: expected an .npz file or a folder of .npy files, and there is none; correct it"
            )
        try:
            return read_arrays(path, keys, mapped=("x",))
        except (OSError, ValueError) as error:
            remedy = "write it afresh with numpy.savez(path, x=x, y=y)"
            if "Python objects" in str(error):
                remedy = "save numbers only"
            raise ValueError(f"data.path={self.path} cannot be read: {error}; {remedy}") from None

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

    def _named(
        self, key: str, words: Shaped[np.ndarray, "..."], records: int
    ) -> tuple[Shaped[np.ndarray, " words"], Int64[np.ndarray, " records"]]:
        """The different words of an array, and which of them each record has."""
        if words.shape != (records,) or words.dtype.kind not in "iuUS":
            raise ValueError(
                f"data.path={self.path}: {key} has shape {words.shape} and dtype {words.dtype}; "
                f"save ({records},) whole numbers or words"
            )
        distinct, of_record = np.unique(words, return_inverse=True)
        return distinct, of_record.astype(np.int64)
