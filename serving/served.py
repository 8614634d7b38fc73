"""A release behind one queue: micro-batches of whatever waits, each request with its own answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Real

from palisade.data.columns import Columns
from palisade.data.sequences import Sequences
from palisade.serving.bodies import RefusedError, RowForm
from palisade.serving.gathering import Gathering
from palisade.targets.release import Release

BATCH_RECORDS = 256
"""Records that the network sees at once; a single request may hold more."""
WAITING_RECORDS = 8192
"""Records in the queue at most; who comes then is asked to come back."""
DIGEST_BYTES = 16
COLUMN_OF_ERROR_LETTERS = 80


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one request as a release takes them.

    Args:
        inputs: of the network.
        digests: a keyed hash of each row, which equal rows share; of a group's rows each goes with the group.
    """

    inputs: Real[np.ndarray, "rows ..."]
    digests: list[bytes]


@dataclass(frozen=True)
class Served:
    """A release as requests meet it.

    Args:
        name: of the model in addresses.
        release: with its guard.
        hash_key: of the digests of rows: without it nobody can test guesses about them.
        most: rows in one request at most.
    """

    name: str
    release: Release
    hash_key: bytes = field(repr=False)
    most: int

    @cached_property
    def rows(self) -> RowForm:
        """Form of the rows that it takes."""
        return RowForm(self.release.preprocessing, self.most)

    @property
    def is_language_model(self) -> bool:
        """True where texts go on, rather than rows having classes."""
        return isinstance(self.release.preprocessing, Sequences)

    def encoded(self, rows: Any) -> EncodedRows:
        """The inputs of rows, with a digest of each.

        Raises:
            RefusedError: if a value cannot be encoded, or the guard needs more rows at once.
        """
        group = self.release.guard.k if self.release.form == "counts" else 1  # type: ignore[attr-defined]
        if len(rows) < group:
            raise RefusedError(400, f"expected at least {group} rows, as this model only counts; send more")
        try:
            inputs, _ = self.release.encode(rows)
        except ValueError as error:
            raise RefusedError(400, self._which_column(str(error))) from None
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            raise RefusedError(400, "expected numbers that float32 holds once they are scaled; correct them")
        # An array's numbers as they came: the last bits of its inputs may depend on the rows beside.
        exact = inputs if isinstance(self.release.preprocessing, Columns) else rows
        contents = [row.encode() if isinstance(row, str) else row.tobytes() for row in exact]
        digests = [self.digest(content) for content in contents]
        if self.release.form == "counts":  # the same record in another group has another answer
            together = b"".join(sorted(digests))
            digests = [self.digest(digest + together) for digest in digests]
        return EncodedRows(inputs, digests)

    def digest(self, content: bytes) -> bytes:
        """A keyed hash of what is asked about."""
        return hashlib.blake2b(content, key=self.hash_key, digest_size=DIGEST_BYTES).digest()

    def _which_column(self, message: str) -> str:
        """The column that an error names, without the value beside it."""
        columns = self.rows.columns or ()
        named = max((name for name in columns if message.startswith(f"column {name} ")), key=len, default=None)
        where = "" if named is None else f" in column {named[:COLUMN_OF_ERROR_LETTERS]}"
        return f"expected rows as the release was trained on{where}; correct the value there"


class Answering(Protocol):
    """A queue before a release."""

    def check_room(self) -> None:
        """Raises RefusedError if too much is waiting."""

    async def answers(self, asked: Any) -> Any:
        """Answers to one request, as JSON takes them."""


class Queue:
    """One queue before a release. While it answers, requests gather, and the next micro-batch takes them all.

    Args:
        release: that answers; one that only counts gets each request by itself.
    """

    def __init__(self, release: Release) -> None:
        self._release = release
        most = BATCH_RECORDS if release.form != "counts" else 0
        self._gathering: Gathering[Any, Any] = Gathering(self._answered, len, most)

    def check_room(self) -> None:
        """Raises RefusedError if too much is waiting."""
        if self._gathering.weight_waiting >= WAITING_RECORDS:
            raise RefusedError(503, "too many requests are waiting; come back", 1.0)

    async def answers(self, asked: Real[np.ndarray, "rows ..."]) -> Any:
        """Answers about the inputs of one request, as JSON takes them: words where they are classes."""
        return await self._gathering.outcome(asked)

    def _answered(self, requests: list[Any]) -> list[Any]:
        if len(requests) == 1:
            return [self._as_json(self._release.answer(requests[0]))]
        ends = np.cumsum([len(inputs) for inputs in requests])
        answers = np.split(self._release.answer(np.concatenate(requests)), ends[:-1])
        return [self._as_json(each) for each in answers]

    def _as_json(self, answers: Real[np.ndarray, "..."]) -> Any:
        return [self._release.classes[k] for k in answers] if self._release.form == "label" else answers
