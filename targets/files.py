"""Files that are there whole or not at all, and locks that keep processes out of each other's way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, ReadWriteLock, Timeout

if sys.platform == "win32":  # it has no forkserver, and os.kill(process, 0) would end the process
    raise ImportError("Palisade trains and evaluates on Linux and macOS; on Windows, install it in WSL")

PART_PREFIX = ".part"
"""Beginning of the names of unfinished files; process and host follow, so that a dead writer's are known."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well: a reader sees the old file or the new.

    Args:
        path: in a folder that exists; what killed processes left behind there is removed.

    Raises:
        OSError: if the disk is full; names `path`.
    """
    remove_stale(path.parent)
    temporary = temporary_path(path)
    try:
        with naming(path, temporary):
            yield temporary
            _to_disk(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Names `path` in errors of the block that name no file, such as those of a full disk.

    Args:
        path: a file, or a folder in which the block writes.
        temporary: another name of it.

    Raises:
        OSError: in the place of those of the block.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        number = error.errno or errno.ENOSPC  # NumPy reports a full disk without a number
        raise OSError(number, os.strerror(number), str(path)) from None


@contextmanager
def creating(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, renamed to it when the block ends well, otherwise removed.

    Args:
        folder: that is not there yet, in one that exists.
    """
    remove_stale(folder.parent)
    temporary = temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain values as a JSON file, whole or not at all.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock on a file until the block ends, True if this process has it; that of a killed process is free again.

    Args:
        path: in a folder that exists; an empty file is made.
        wait: for a process that has it, instead of yielding False at once.
    """
    lock = FileLock(path, blocking=wait)
    yield from _until_the_end(lock.acquire, lock.release)


@contextmanager
def shared_lock(path: Path, *, alone: bool = False) -> Iterator[bool]:
    """Lock that several processes may have at a time, or one alone; False at once where others keep it from that.

    Args:
        path: in a folder that exists; an empty file is made.
        alone: without any other process.
    """
    lock = ReadWriteLock(path, blocking=False, is_singleton=False)
    yield from _until_the_end(lock.acquire_write if alone else lock.acquire_read, lock.close)


def _until_the_end(acquire: Callable[[], object], release: Callable[[], object]) -> Iterator[bool]:
    try:
        acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        release()


def temporary_path(path: Path) -> Path:
    """The name under which this process writes what is to become `path`; it keeps its ending."""
    return path.with_name(f"{PART_PREFIX}-{os.getpid()}-{socket.gethostname()}-{path.name}")


def remove_stale(folder: Path) -> None:
    """Removes the temporary files and folders that processes of this machine left in a folder when they were killed."""
    for path in folder.glob(f"{PART_PREFIX}-*-{socket.gethostname()}-*"):
        if not _is_alive(int(path.name.split("-")[1])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def _to_disk(path: Path) -> None:
    """Content before name: after a power cut a renamed file is never empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
