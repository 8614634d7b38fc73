"""Files of data: opened packed or not, within a bound on their size, and against published checksums."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from palisade.data.settings import place

ALWAYS_ALLOWED_BYTES, MAX_UNFOLDING_RATIO = 2**30, 200
"""Bytes that any file may unfold to; how many times its own size a larger one may. Tables and images reach 5 to 50."""
READER_ERRORS = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError)
"""Errors of the standard library's readers at damaged, encrypted or exotic files, besides OSError."""
OPENERS_BY_ENDING: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def check_size(name: str, unfolded: int, compressed: int) -> None:
    """Raises ValueError if `compressed` bytes unfold to more than they may."""
    if unfolded > max(ALWAYS_ALLOWED_BYTES, MAX_UNFOLDING_RATIO * compressed):
        raise ValueError(
            f"{name} unfolds {compressed} bytes to {unfolded} or more, over {MAX_UNFOLDING_RATIO} times as many; if it"
            " is what you expect, decompress it yourself"
        )


def opened(path: Path) -> BinaryIO:
    """A file's content, decompressed by its ending: .gz, .bz2, .xz, .zip with a single file, or plain.

    Reading it raises ValueError as soon as it unfolds to more than it may.

    Raises:
        ValueError: for another kind of archive.
    """
    kind = path.suffix.lower()
    if kind in (".tar", ".tgz", ".zst", ".7z", ".rar"):
        raise ValueError(f"{path.name} is an archive of another kind; unpack it, or use .gz, .bz2, .xz or .zip")
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            if len(names := archive.namelist()) != 1:
                raise ValueError(f"{path.name} holds {len(names)} files; pack exactly one")
            return io.BufferedReader(Bounded(archive.open(names[0]), path))
    return (
        io.BufferedReader(Bounded(OPENERS_BY_ENDING[kind](path), path))
        if kind in OPENERS_BY_ENDING
        else path.open("rb")
    )


class Bounded(io.RawIOBase):
    """A stream that ends with an error instead of filling the memory; it decompresses `path` as it is read."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream, self.name, self.compressed = stream, path.name, path.stat().st_size

    def readable(self) -> bool:
        """Always true, as `io.BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with unpacked bytes; raises ValueError once they exceed what may be unpacked."""
        count: int = self.stream.readinto(buffer)
        check_size(self.name, self.stream.tell(), self.compressed)
        return count

    def close(self) -> None:
        """Closes the packed stream too."""
        self.stream.close()
        super().close()


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


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a public data set, known by its checksum.

    Args:
        name: its path in a user's folder; there it may also lie as `<name>.xz`.
        checksum: of its content, such as `md5:8d4f…` or `sha256:9272…`.
        url: where its publisher offers it, alone or in an archive.
        archive: checksum of the archive at `url` (.zip or .tar.gz), or None if the file is offered alone.
        member: its path in that archive; None takes `name`.
    """

    name: str
    checksum: str
    url: str
    archive: str | None = None
    member: str | None = None

    def read(self, root: str | None) -> bytes:
        """The content: from the folder `root`, or else from the user's cache, into which it is downloaded once.

        Raises:
            ValueError: if the file is not the published one.
            OSError: if it cannot be downloaded.
        """
        path = self._path(root)
        try:
            with opened(path) if path.name == f"{self._base}.xz" else path.open("rb") as file:
                content = file.read()
        except (*READER_ERRORS, ValueError) as error:
            raise ValueError(f"{path} is no .xz file ({error}); delete it, and set data.root=null") from None
        algorithm, published = self.checksum.split(":")
        if (digest := hashlib.new(algorithm, content).hexdigest()) != published:
            raise ValueError(
                f"{path} has {algorithm} {digest[:12]}…, the published file has {published[:12]}…; "
                "delete it, and set data.root=null to download it afresh"
            )
        return content

    @property
    def _base(self) -> str:
        return Path(self.name).name

    def _path(self, root: str | None) -> Path:
        if root is not None:
            stored = place("data.root", root) / self.name
            for path in (stored, stored.with_name(f"{stored.name}.xz")):
                if path.is_file():
                    return path
        return self._download()

    def _download(self) -> Path:
        import pooch
        import requests

        pooch.get_logger().setLevel("WARNING")
        extract = pooch.Unzip if self.url.endswith(".zip") else pooch.Untar
        member = self.member or self.name
        try:
            paths = pooch.retrieve(
                self.url,
                known_hash=self.archive or self.checksum,
                path=pooch.os_cache("palisade"),
                processor=extract(members=[member]) if self.archive else None,
            )
            return Path(paths[0] if self.archive else paths)
        except requests.RequestException as error:
            reason = f"no answer from {self.url} ({type(error).__name__})"
        except (ValueError, OSError) as error:  # pooch's word for another checksum, or a cache that cannot be written
            reason = f"{self.url} is not the published file, or cannot be stored ({type(error).__name__})"
        raise OSError(f"{self.name}: {reason}; put the file into a folder and set data.root=<folder>")
