"""Reading .npz and .npy files that somebody else may have made: nothing in them runs, or takes memory unseen."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palisade.data.decompression import check_size


def read_arrays(path: Path, keys: Sequence[str], *, mapped: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, or of a folder with `<key>.npy` files, as far as they are there.

    Objects are refused, since reading them runs code from the file. So is an array whose header names another size
    than the file has, before any memory is taken for it.

    Args:
        path: of the file or folder.
        keys: the arrays to read; others are not looked at.
        mapped: which of them stay on disk, if they lie in a folder.

    Raises:
        ValueError: if the content cannot be read; says why.
        OSError: if the file cannot be read.
    """
    if path.is_dir():
        files = {key: path / f"{key}.npy" for key in keys}
        return {key: _mapped(file, stays=key in mapped) for key, file in files.items() if file.exists()}
    if not path.is_file():
        raise ValueError("it is no file")
    if not zipfile.is_zipfile(path):
        one = path.open("rb").read(6) == b"\x93NUMPY"
        raise ValueError(
            "it is one array, not an archive" if one else "it is no archive of arrays, or only part of one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            return {key: _member(archive, f"{key}.npy") for key in keys if f"{key}.npy" in there}
    except MemoryError as error:
        raise ValueError(f"{error}; save a folder of .npy files, which stay on disk") from None
    except OSError:
        raise
    except Exception as error:  # whatever the readers stumble over, the fault is the file's
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(name)
    check_size(name, entry.file_size, entry.compress_size)
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(file)
        _check(name, shape, kind, entry.file_size - file.tell())
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _mapped(file: Path, *, stays: bool) -> np.ndarray:
    if not file.is_file():
        raise ValueError(f"{file.name} is no file")
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # refuses objects and files shorter than their header says
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{file.name}: {' '.join(str(error).split())}") from None
    return array if stays else np.array(array)


def _check(name: str, shape: tuple[int, ...], kind: np.dtype, held: int) -> None:
    if kind.hasobject:
        raise ValueError("it holds Python objects, and reading them could run code")
    if (named := math.prod(shape) * kind.itemsize) != held or min(shape, default=0) < 0:
        raise ValueError(f"{name} names {named} bytes of numbers and holds {held}")
