"""Documents as a language model reads them: numbers of tokens, each to be predicted from those before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from palisade.data.tokens import checked_texts
from palisade.fields import CheckedFields, CountFromZero

BEGIN_TOKEN = 0
"""Number that stands before the first token of a document, unless a tokenizer has another one, and pads inputs."""
NO_TOKEN = -1
"""Label of a position behind the last token, which is no part of any loss."""
BYTE_VALUES = 256
LEAST_LOGPROB = -9999.0
"""Log-probability of a token that is never drawn, as services write it: JSON has no infinity."""
TOKEN_COLUMNS = ("log_probability", "mean", "variance")
TOKEN_ROW = np.dtype([*((name, np.float32) for name in TOKEN_COLUMNS), ("greedy", np.bool_)])
"""All that is kept of an answer about a token: ℓ = log p of the token, the mean μ and the variance σ² of the
log probabilities of all tokens under the answer itself, and whether the token is the likeliest one."""
GUARDED_TOKEN_ROW = np.dtype([*((name, TOKEN_ROW[name]) for name in TOKEN_ROW.names or ()), ("blocked", np.bool_)])
"""An answer about a token behind a guard: `TOKEN_ROW`, and whether the guard refuses the token."""


@dataclass(frozen=True, kw_only=True)
class Sequences(CheckedFields, ABC):
    """Token numbers of documents, cut or padded to one length.

    At every position the label is the next token: a language model is a classifier with a class at every position.
    The token that begins a document pads inputs too, where no label is, so that no model learns what padding means.

    Args:
        length: T, positions of a document, 1 to 65,536: what is longer is cut, what is shorter is padded.
        new_tokens: entries of the vocabulary that no text has, for canaries.
        begin: number of the token that begins a document.

    Raises:
        ValueError: if a number is out of range.
    """

    kind: ClassVar[str]
    length: Annotated[int, Field(ge=1, le=2**16)] = 128
    new_tokens: CountFromZero = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one document's input: its positions."""
        return (self.length,)

    begin: int = BEGIN_TOKEN

    @property
    @abstractmethod
    def text_tokens(self) -> int:
        """Size of the vocabulary without the entries that no text has; these come last."""

    @property
    def vocabulary(self) -> int:
        """V, the number of classes at every position."""
        return self.text_tokens + self.new_tokens

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """All tokens of a text, each 1 to V − 1."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens, UTF-8; nothing of those that no text has."""

    @abstractmethod
    def offsets(self, text: str) -> list[int]:
        """Place in a text, in letters, at which each of its tokens begins."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""

    def __call__(self, rows: Iterable[str]) -> Int64[np.ndarray, "records length"]:
        """The inputs of raw texts: the token before each position.

        Raises:
            ValueError: if `rows` is one text, or anything but a list of texts.
        """
        return self.inputs_of(self.labels(rows))

    def inputs_of(self, labels: Int64[np.ndarray, "records length"]) -> Int64[np.ndarray, "records length"]:
        """The token before each position: that which begins a document, then all but the last one."""
        return inputs_of(labels, self.begin)

    def labels(self, rows: Iterable[str]) -> Int64[np.ndarray, "records length"]:
        """The token at each position of raw texts, −1 behind the last one.

        Raises:
            ValueError: as `__call__` does.
        """
        texts = checked_texts(rows)
        labels = np.full((len(texts), self.length), NO_TOKEN, dtype=np.int64)
        for row, text in zip(labels, texts, strict=True):
            tokens = self.encode(text)[: self.length]
            row[: len(tokens)] = tokens
        return labels

    def pieces(self, texts: Sequence[Sequence[int]]) -> Int64[np.ndarray, "pieces length"]:
        """Labels, as `labels` has them, of texts of any length: a longer one is cut into pieces that are read at once.

        Args:
            texts: the tokens of each.
        """
        pieces = [own[start : start + self.length] for own in texts for start in range(0, len(own), self.length)]
        labels = np.full((len(pieces), self.length), NO_TOKEN, dtype=np.int64)
        for row, piece in zip(labels, pieces, strict=True):
            row[: len(piece)] = piece
        return labels


def inputs_of(
    labels: Int64[np.ndarray, "*records length"], begin: int = BEGIN_TOKEN
) -> Int64[np.ndarray, "*records length"]:
    """The token before each position: that which begins a document, then all but the last one.

    Args:
        labels: the token at each position, −1 behind the last one.
        begin: the token that begins a document.
    """
    before = np.roll(labels, 1, axis=-1)
    before[..., 0] = begin
    return np.where(before == NO_TOKEN, begin, before)


@dataclass(frozen=True, kw_only=True)
class ByteTokens(Sequences):
    """The bytes of a text in UTF-8, each a token: no vocabulary is fitted, so that ε leaves nothing out."""

    kind: ClassVar[str] = "bytes"
    statistics: ClassVar[str] = "constants"
    not_covered: ClassVar[None] = None

    @property
    def text_tokens(self) -> int:
        """The token that begins a document, and 256 bytes."""
        return 1 + BYTE_VALUES

    def encode(self, text: str) -> list[int]:
        """The bytes of a text, each plus one."""
        return [1 + byte for byte in text.encode("utf-8", "surrogatepass")]

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of tokens, which may end within a letter."""
        return bytes(token - 1 for token in tokens if BEGIN_TOKEN < token <= BYTE_VALUES)

    def offsets(self, text: str) -> list[int]:
        """Place of the letter that each byte is a part of."""
        return [place for place, letter in enumerate(text) for _ in letter.encode("utf-8", "surrogatepass")]

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        return {"kind": self.kind, "length": self.length, "new_tokens": self.new_tokens}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ByteTokens:
        """The preprocessing that `to_json` described."""
        return cls(**{name: content[name] for name in ("length", "new_tokens")})
