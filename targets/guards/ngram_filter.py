"""Filter of training n-grams: a model's next token may not complete one that stands in its training texts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64

HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
MIX_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
MIX_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, kw_only=True, eq=False)
class NgramFilter(ABC):
    """N-grams of token numbers that may not be completed (MemFree, Ippolito et al. 2023, section 3).

    It stops text that is copied word by word, at the price of saying whether a text was in the training set: a true
    continuation that is refused proves it. A change of style, such as capitals, walks around it.

    Args:
        n: tokens of an n-gram, at least 2.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n={self.n}: expected an integer >= 2; choose e.g. 10")

    @property
    @abstractmethod
    def false_positive_rate(self) -> float:
        """Share of other n-grams that are refused, too."""

    @abstractmethod
    def holds(self, grams: Int[np.ndarray, "grams n"]) -> Bool[np.ndarray, "grams"]:
        """N-grams that may not be completed."""

    def blocked(
        self, x: Int[np.ndarray, "records tokens"], mask: Bool[np.ndarray, "records tokens"]
    ) -> Bool[np.ndarray, "records tokens"]:
        """Places of texts whose own token is refused after what stands before it.

        Args:
            x: token numbers.
            mask: where texts have tokens.
        """
        refused = np.zeros(x.shape, dtype=bool)
        if x.shape[1] >= self.n:
            ends = mask[:, self.n - 1 :]
            refused[:, self.n - 1 :][ends] = self.holds(grams_of(x, mask, self.n))
        return refused

    def refused(self, context: Int[np.ndarray, "tokens"], vocabulary: int) -> Bool[np.ndarray, "vocabulary"]:
        """Tokens that may not follow a text.

        Args:
            context: the text so far; below n − 1 tokens nothing is refused.
            vocabulary: number of tokens that there are.
        """
        if len(context) < self.n - 1:
            return np.zeros(vocabulary, dtype=bool)
        before = np.broadcast_to(context[len(context) - self.n + 1 :], (vocabulary, self.n - 1))
        return self.holds(np.concatenate([before, np.arange(vocabulary)[:, None]], axis=1))

    def refuses(
        self, contexts: Sequence[Int[np.ndarray, "tokens"]], following: Int[np.ndarray, "texts"]
    ) -> Bool[np.ndarray, "texts"]:
        """Texts that the token beside each may not follow.

        Args:
            contexts: the texts so far, of any lengths.
            following: a token for each of them.
        """
        refused = np.array([len(context) >= self.n - 1 for context in contexts], dtype=bool)
        pairs = zip(contexts, following, strict=True)
        ends = [np.append(context[len(context) - self.n + 1 :], token) for context, token in pairs]
        if refused.any():
            refused[refused] = self.holds(np.array([end for end in ends if len(end) == self.n], dtype=np.int64))
        return refused

    def words(self) -> str:
        """Sentence for the card."""
        rate = self.false_positive_rate
        exact = "no other" if rate == 0 else f"about one in {1 / rate:,.0f} others"
        return (
            f"Refuses whatever would complete {self.n} tokens in a row of a training text, and {exact}. Whoever asks"
            " for the true continuation learns by the refusal that a text was used. Asked in capitals, the model may"
            " go on."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactNgrams(NgramFilter):
    """The n-grams themselves.

    Args:
        n: as in `NgramFilter`.
        grams: each once.
    """

    grams: Int[np.ndarray, "grams n"]

    @classmethod
    def of(cls, x: Int[np.ndarray, "records tokens"], mask: Bool[np.ndarray, "records tokens"], n: int) -> ExactNgrams:
        """Filter of the n-grams of some texts."""
        return cls(n=n, grams=np.unique(grams_of(x, mask, n), axis=0))

    @property
    def false_positive_rate(self) -> float:
        """None is refused that no training text holds."""
        return 0.0

    def holds(self, grams: Int[np.ndarray, "grams n"]) -> Bool[np.ndarray, "grams"]:
        """N-grams that some training text holds."""
        rows = np.ascontiguousarray(grams, dtype=np.int64)
        return np.fromiter((row.tobytes() in self._held for row in rows), dtype=bool, count=len(rows))

    def refused(self, context: Int[np.ndarray, "tokens"], vocabulary: int) -> Bool[np.ndarray, "vocabulary"]:
        """Tokens that may not follow a text."""
        before = np.ascontiguousarray(context[max(0, len(context) - self.n + 1) :], dtype=np.int64)
        return np.isin(np.arange(vocabulary), self._followed.get(before.tobytes(), []))

    @cached_property
    def _held(self) -> frozenset[bytes]:
        return frozenset(row.tobytes() for row in np.ascontiguousarray(self.grams, dtype=np.int64))

    @cached_property
    def _followed(self) -> dict[bytes, list[int]]:
        """Last tokens of n-grams by the tokens before."""
        followed: dict[bytes, list[int]] = {}
        for row in np.ascontiguousarray(self.grams, dtype=np.int64):
            followed.setdefault(row[:-1].tobytes(), []).append(int(row[-1]))
        return followed


@dataclass(frozen=True, kw_only=True, eq=False)
class BloomNgrams(NgramFilter):
    """Bits that the hashes of the n-grams set: smaller, and nobody reads the texts off it.

    Args:
        n: as in `NgramFilter`.
        bits: eight a byte.
        hashes: bits that each n-gram sets.
    """

    bits: UInt8[np.ndarray, "bytes"]
    hashes: int

    @classmethod
    def of(
        cls, x: Int[np.ndarray, "records tokens"], mask: Bool[np.ndarray, "records tokens"], n: int, rate: float
    ) -> BloomNgrams:
        """Filter of the n-grams of some texts.

        Args:
            x: token numbers.
            mask: where texts have tokens.
            n: tokens of an n-gram.
            rate: false-positive rate that is aimed at, in (0, 1).

        Raises:
            ValueError: if `rate` is out of range.
        """
        if not 0 < rate < 1:
            raise ValueError(f"rate={rate}: expected a number in (0, 1); choose e.g. 0.001")
        grams = np.unique(grams_of(x, mask, n), axis=0)
        size = 8 * max(1, math.ceil(-len(grams) * math.log(rate) / math.log(2) ** 2 / 8))
        hashes = max(1, round(-math.log2(rate)))
        bits = np.zeros(size, dtype=bool)
        bits[_places(grams, size, hashes)] = True
        return cls(n=n, bits=np.packbits(bits), hashes=hashes)

    @property
    def false_positive_rate(self) -> float:
        """Probability that all bits of another n-gram are set."""
        return float(np.unpackbits(self.bits).mean() ** self.hashes)

    def holds(self, grams: Int[np.ndarray, "grams n"]) -> Bool[np.ndarray, "grams"]:
        """N-grams all of whose bits are set."""
        places = _places(grams, 8 * len(self.bits), self.hashes)
        held: np.ndarray = (self.bits[places // 8] >> (7 - places % 8) & 1).astype(bool).all(axis=-1)
        return held


def grams_of(
    x: Int[np.ndarray, "records tokens"], mask: Bool[np.ndarray, "records tokens"], n: int
) -> Int[np.ndarray, "grams n"]:
    """All n-grams of some texts, in order, none across padding.

    Args:
        x: token numbers.
        mask: where texts have tokens, from the first position on.
        n: tokens of an n-gram.
    """
    if x.shape[1] < n:
        return np.zeros((0, n), dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(x, n, axis=1)
    return np.asarray(windows[mask[:, n - 1 :]], dtype=np.int64)


def _places(grams: Int[np.ndarray, "grams n"], size: int, hashes: int) -> UInt64[np.ndarray, "grams hashes"]:
    """Bits of each n-gram, by two hashes of it (Kirsch & Mitzenmacher 2006)."""
    rows = np.asarray(grams).astype(np.uint64)
    first = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        first = _mixed(first * HASH_FACTOR + column)
    second = _mixed(first ^ HASH_FACTOR) | np.uint64(1)
    return (first[:, None] + np.arange(hashes, dtype=np.uint64) * second[:, None]) % np.uint64(size)


def _mixed(value: UInt64[np.ndarray, "grams"]) -> UInt64[np.ndarray, "grams"]:
    """Every bit of the result depends on every bit of the value (SplitMix64)."""
    value = value + HASH_FACTOR
    for factor, shift in zip(MIX_FACTORS, MIX_SHIFTS[:2], strict=True):
        value = (value ^ (value >> shift)) * factor
    return value ^ (value >> MIX_SHIFTS[2])
