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

FREE, RATIO = 2**30, 200
"""Bytes that any file may unfold to; how many times its own size a larger one may. Tables and images reach 5 to 50."""
BROKEN = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError)
"""What the readers of the standard library raise for damaged, encrypted or exotic files, besides OSError."""
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def check_size(name: str, unfolded: int, compressed: int) -> None:
    """Raises ValueError if `compressed` bytes unfold to more than they may."""
    if unfolded > max(FREE, RATIO * compressed):
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
            if len(names := archive.namelist()) != 1:
                raise ValueError(f"{path.name} holds {len(names)} files; pack exactly one")
            return io.BufferedReader(Bounded(archive.open(names[0]), path))
    return io.BufferedReader(Bounded(OPENERS[kind](path), path)) if kind in OPENERS else path.open("rb")


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
