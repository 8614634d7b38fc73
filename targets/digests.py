"""Digests of weights files, made once and kept beside them: a fleet's weights are many, and read slowly."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from palisade.targets.files import replacing, write_json

WEIGHTS_SUFFIX = ".safetensors"
DIGEST_SUFFIX = ".digest.json"
"""Ending of the file of a digest, in the place of that of the weights: `3.digest.json` for `3.safetensors`."""


def digest(path: Path) -> str:
    """BLAKE2b digest of a weights file, in hex: that beside it where size and time of change agree, otherwise anew.

    A new one is written beside the file; where that cannot be, as in a folder that is only read, it is just returned.
    Of weights that were removed the digest that stayed is theirs.

    Args:
        path: of the weights.

    Raises:
        OSError: if the file cannot be read.
    """
    if (stored := _stored(path)) is not None and stored.get("removed") is True and not path.exists():
        return str(stored["digest"])
    state = _state(path)  # before the content: a file that is replaced meanwhile is then hashed again
    if stored is not None and {**stored, **state} == stored:
        return str(stored["digest"])
    value = _hashed(path.read_bytes())
    _store(path, state, value)
    return value


def content_digest(path: Path) -> str:
    """BLAKE2b digest of any file, in hex; nothing is written beside it, and a process reads it once while it stays.

    Args:
        path: of the file, which may be a user's own.

    Raises:
        OSError: if the file cannot be read.
    """
    return _read_once(path, *_state(path).values())


@lru_cache(maxsize=64)
def _read_once(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()


def write_weights(path: Path, content: bytes) -> None:
    """Writes a weights file, whole or not at all, and its digest, without reading it again.

    Args:
        path: of the weights, in a folder that exists.
        content: of the file.

    Raises:
        OSError: if the disk is full; names `path`.
    """
    with suppress(OSError):
        digest_path(path).unlink(missing_ok=True)  # that of former weights, should clocks be coarse
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    _store(path, _state(path), _hashed(content))


def remove_weights(path: Path) -> None:
    """Removes a weights file; its digest stays, and says so.

    Args:
        path: of the weights.

    Raises:
        OSError: if the file cannot be read, or the disk is full: the weights then stay.
    """
    write_json(digest_path(path), {**_state(path), "digest": digest(path), "removed": True})
    path.unlink()


def is_removed(path: Path) -> bool:
    """True of a weights file that was removed, and whose digest stayed."""
    return not path.exists() and (stored := _stored(path)) is not None and stored.get("removed") is True


def removed_weights(folder: Path) -> list[Path]:
    """The weights files of a folder that were removed."""
    digests = sorted(folder.glob(f"[0-9]*{DIGEST_SUFFIX}"))
    paths = [path.with_name(path.name.replace(DIGEST_SUFFIX, WEIGHTS_SUFFIX)) for path in digests]
    return [path for path in paths if is_removed(path)]


def digest_path(path: Path) -> Path:
    """File of the digest of a weights file."""
    return path.with_suffix(DIGEST_SUFFIX)


def _stored(path: Path) -> dict[str, Any] | None:
    """Content of the file of a digest; None if there is none, or it is damaged."""
    try:
        stored = json.loads(digest_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and isinstance(stored.get("digest"), str) else None


def _state(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _hashed(content: bytes) -> str:
    return hashlib.blake2b(content).hexdigest()


def _store(path: Path, state: dict[str, Any], value: str) -> None:
    with suppress(OSError):  # what it saves is time alone
        write_json(digest_path(path), {**state, "digest": value})
