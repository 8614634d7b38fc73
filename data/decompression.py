"""Reading compressed files without trusting them: a few bytes may stand for more than any memory holds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

FREE = 2**30
"""Bytes that any file may unfold to."""
RATIO = 200
"""How many times its own size a larger one may unfold to; tables and images reach 5 to 50."""
BROKEN = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError)
"""What the readers of the standard library raise for damaged, encrypted or exotic files, besides OSError."""


def most(compressed: int) -> int:
    """How many bytes a file of `compressed` bytes may unfold to."""
    return max(FREE, RATIO * compressed)


def check_size(name: str, unfolded: int, compressed: int) -> None:
    """Raises ValueError if `compressed` bytes unfold to more than they may."""
    if unfolded > most(compressed):
        raise ValueError(
            f"{name} unfolds {compressed} bytes to {unfolded} or more, over {RATIO} times as many; if it is what you"
            " expect, decompress it yourself"
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
            if len(archive.namelist()) != 1:
                raise ValueError(f"{path.name} holds {len(archive.namelist())} files; pack exactly one")
            return _bounded(archive.open(archive.namelist()[0]), path)
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return _bounded(openers[kind](path), path) if kind in openers else path.open("rb")


def _bounded(stream: Any, path: Path) -> BinaryIO:
    return io.BufferedReader(Bounded(stream, path.name, path.stat().st_size), 2**16)  # type: ignore[type-var]


class Bounded(io.RawIOBase):
    """A stream that ends with an error instead of filling the memory.

    Args:
        stream: decompresses as it is read.
        name: of the file, for the error.
        compressed: its size in bytes.
    """

    def __init__(self, stream: BinaryIO, name: str, compressed: int) -> None:
        self.stream, self.name, self.compressed, self.unfolded = stream, name, compressed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        content = self.stream.read(len(buffer))
        self.unfolded += len(content)
        check_size(self.name, self.unfolded, self.compressed)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()
