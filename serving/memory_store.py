"""Counts in the memory of one process; budgets and days are journaled, on disk before an answer leaves."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from palisade.serving.gathering import Gathering
from palisade.serving.limits import Charge, Counts, StoreError
from palisade.targets.files import file_lock

JOURNAL_NAME = "counts.jsonl"
JOURNAL_LETTERS = 2**20
"""Letters that are written at once."""
DAY_PARTS = 100
"""Parts of a day's records that are journaled ahead: after a restart a client has lost one of them at most."""


class MemoryStore:
    """Counts of the one process that has the folder.

    A line of the journal tells of new records of a client, or how many of a day's records it may have used. All lines
    that gather while the disk is busy become one write. A line that a kill tore off at the end was of no answer.

    Args:
        folder: private, of the journal.

    Raises:
        ValueError: if another server has the folder, or the journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held, self._path = ExitStack(), folder / JOURNAL_NAME
        if not self._held.enter_context(file_lock(folder / "counts.lock", wait=False)):
            raise ValueError(f"private={folder}: expected a folder that no other server has; stop it, or store=redis")
        self._counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._ahead: dict[str, tuple[int, int]] = {}
        self._read()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._journal: Gathering[str, None] = Gathering(self._append, len, JOURNAL_LETTERS)
        self._is_broken = False

    async def take(self, charge: Charge) -> int:
        """Counts a request, and waits until that is on disk; returns how many different records the client asked about.

        Raises:
            RefusedError: if it exceeds a limit.
            StoreError: if the disk failed, now or before.
        """
        if self._is_broken:
            raise StoreError
        name, counts = charge.client.name, self._counts[charge.client.name]
        new = counts.take(charge, time.monotonic(), time.time())  # nothing is awaited before: no other request between
        entry: dict[str, Any] = {"new": [digest.hex() for digest in new]} if new else {}
        limit, (day, ahead) = charge.client.limits.day, self._ahead.get(name, (0, 0))
        if limit is not None and (counts.day != day or counts.records > ahead):
            self._ahead[name] = entry["day"] = (counts.day, min(limit, counts.records + limit // DAY_PARTS))
        line = json.dumps({"client": name, **entry}) + "\n" if entry else ""
        if entry or self._journal.is_running:  # a repeated record's first line may still be on its way
            await self._journal.outcome(line)
        return len(counts.seen)

    async def check(self) -> None:
        """Raises StoreError if the disk has failed."""
        if self._is_broken:
            raise StoreError

    async def close(self) -> None:
        """Closes the journal, and lets another server have it."""
        self._journal.close()
        os.close(self._file)
        self._held.close()

    def _append(self, lines: list[str]) -> list[None]:
        """Writes lines to the disk; after the first failure none any more, as the last one may be torn."""
        try:
            if self._is_broken:
                raise StoreError
            content = "".join(lines).encode()
            while content:
                content = content[os.write(self._file, content) :]
                os.fsync(self._file)
        except OSError:
            self._is_broken = True
            raise StoreError from None
        return [None] * len(lines)

    def _read(self) -> None:
        """Takes up the counts of the journal; drops a torn last line."""
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                counts = self._counts[entry["client"]]
                counts.seen.update(map(bytes.fromhex, entry.get("new", ())))
                if "day" in entry:
                    counts.day, counts.records = map(int, entry["day"])
                    self._ahead[entry["client"]] = (counts.day, counts.records)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{self._path}: line {number} is no count; restore the file") from None
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
