"""Answers of an endpoint, kept line by line, so that an audit that was killed can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped


class AnswerLog:
    """A file to which answers are only appended, each known by a hash of its input.

    A line that a kill tore off at the end is dropped. The file is as private as the records: whoever holds it can test
    guesses about them.

    Args:
        path: of the file; made if it is missing.

    Raises:
        ValueError: if a line before the last is no answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                given = entry["answer"]
                if self._known and (len(given) if isinstance(given, list) else None) != self.width:
                    raise ValueError("of another length than those before")
                self._known[entry["input"]] = given
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}: line {number} is no answer; remove the file to ask anew") from None
        self.kept = frozenset(self._known)  # of earlier audits
        if len(whole) < len(content):
            os.truncate(path, len(whole))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def width(self) -> int | None:
        """Number of classes that an answer scores; None before the first, and where answers are classes."""
        first = next(iter(self._known.values()), None)
        return len(first) if isinstance(first, list) else None

    def missing(self, names: Sequence[str]) -> list[int]:
        """The first place of each name that has no answer yet."""
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        return sorted(place for name, place in first.items() if name not in self._known)

    def add(self, names: Sequence[str], answers: Sequence[Any]) -> None:
        """Appends answers; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for name, answer in zip(names, answers, strict=True):
                file.write(json.dumps({"input": name, "answer": answer}) + "\n")
                self._known[name] = answer
            file.flush()
            os.fsync(file.fileno())

    def of(self, names: Sequence[str]) -> list[Any]:
        """The answers."""
        return [self._known[name] for name in names]


def name_of_input(row: Shaped[np.ndarray, "..."]) -> str:
    """A hash of an input's type, shape and values."""
    digest = hashlib.blake2b(f"{row.dtype} {row.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()
