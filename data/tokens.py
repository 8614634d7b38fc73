"""Texts as a network's inputs: the numbers of their words, by a hash that knows no text beforehand."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from palisade.fields import CheckedFields

PADDING_TOKEN = 0
WORD_PATTERN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")  # a word with its apostrophes, or one punctuation mark


@dataclass(frozen=True, kw_only=True)
class Tokens(CheckedFields):
    """The lower-cased words of a text, each hashed into one of a fixed number of buckets.

    A vocabulary is usually the list of words that occur in the training texts: whoever reads it learns that a rare
    name stood in one of them, and no ε covers that. A hash (CRC-32, the same on every machine) needs no such list. It
    depends on no text, costs no budget, and no word is unknown to it; the price is that words may share a bucket
    (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning", section 2).

    Args:
        length: words of a text that are used, 1 to 65,536: what is longer is cut, what is shorter is padded.
        buckets: how many numbers there are, 2 to 2^32, which is as many as the hash has; number 0 is the padding.

    Raises:
        ValueError: if a number is out of range.
    """

    kind: ClassVar[str] = "tokens"
    statistics: ClassVar[str] = "constants"
    not_covered: ClassVar[None] = None
    length: Annotated[int, Field(ge=1, le=2**16)] = 64
    buckets: Annotated[int, Field(ge=2, le=2**32)] = 8192

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record: the number of tokens that each text is cut or padded to."""
        return (self.length,)

    def __call__(self, rows: Iterable[str]) -> Int64[np.ndarray, "records length"]:
        """The inputs of raw texts; an empty text is all padding.

        Raises:
            ValueError: if `rows` is one text, or anything but a list of texts.
        """
        texts = checked_texts(rows)
        inputs = np.full((len(texts), self.length), PADDING_TOKEN, dtype=np.int64)
        for row, text in zip(inputs, texts, strict=True):
            words = WORD_PATTERN.findall(text.lower())[: self.length]
            row[: len(words)] = [self._bucket(word) for word in words]
        return inputs

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tokens:
        """The preprocessing that `to_json` described."""
        return cls(**{name: content[name] for name in ("length", "buckets")})

    def _bucket(self, word: str) -> int:
        return 1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % (self.buckets - 1)


def checked_texts(rows: Iterable[str]) -> list[str]:
    """Raw rows as a list of texts.

    Raises:
        ValueError: if they are one text, or anything but a list of texts.
    """
    if isinstance(rows, str):
        raise ValueError("rows are a single text; give a list of texts")
    if not isinstance(rows, Iterable) or getattr(rows, "ndim", 1) != 1:
        raise ValueError(f"rows are of type {type(rows).__name__}, not a list of texts; give one text per record")
    texts = list(rows)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"rows: record {number} is of type {type(text).__name__}; give every record as a text")
    return texts
