"""Labels of a table: words that are equal as numbers, or but for blanks, are one class."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.cells import PLAIN_READING, TRUTH_VALUES, Reading, key_of, quoted
from palisade.fields import as_written

if TYPE_CHECKING:
    import pandas as pd

CLOSING_SIGNS, QUOTATION_MARKS, DASH_SIGNS = ".,;:", "'\"", dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
"""Signs at the end of a word, and around it, by which no two classes may differ alone; + and - are no such signs."""


def classes_of(
    setting: str, cells: pd.Series, reading: Reading = PLAIN_READING
) -> tuple[tuple[str, ...], Int64[np.ndarray, " records"]]:
    """The classes, numbers by value and words by the alphabet, and the class of each record.

    Args:
        setting: that names the column, for errors.
        cells: of `Reading.cells`, none without a value.
        reading: how the table writes its numbers.

    Raises:
        ValueError: if classes differ by case, quotation marks or closing signs alone, as `<=50K` and `<=50K.` do.
    """
    spelled: dict[Hashable, str] = {}
    for word in sorted(cells.unique(), key=lambda word: (len(word), word)):
        spelled.setdefault(_equal(word, reading), word)
    seen: dict[Hashable, str] = {}
    for word in spelled.values():
        if (other := seen.setdefault(_undecorated(word), word)) != word:
            raise ValueError(
                f"{setting} has classes {quoted(other)} and {quoted(word)}; write them alike, or rename one"
            )
    classes = _in_order(spelled.values())
    number = {word: k for k, word in enumerate(classes)}
    labels = cells.map({word: number[spelled[_equal(word, reading)]] for word in cells.unique()})
    return classes, labels.to_numpy(dtype=np.int64)


def is_numbered(classes: Sequence[str]) -> bool:
    """True if the classes are called 0, 1, …, which says nothing about records."""
    return tuple(classes) == numbers_of_classes(len(classes))


def numbers_of_classes(count: int) -> tuple[str, ...]:
    """Classes that are called 0, 1, …"""
    return tuple(map(str, range(count)))


def numbered(
    name: str, labels: Shaped[np.ndarray, " records"], classes: Sequence[str]
) -> Int64[np.ndarray, " records"]:
    """The number of the class that each label is, as a word or as a number.

    Args:
        name: of the file, for errors.
        labels: words.
        classes: the words of the classes, by number.

    Raises:
        ValueError: if a label is no class.
    """
    number = {_equal(word): k for k, word in reversed(list(enumerate(classes)))}
    number |= {word: k for k, word in enumerate(classes)}
    words, places = np.unique(labels, return_inverse=True)
    known = [number.get(word, number.get(_equal(word))) for word in words.tolist()]
    if None in known:
        raise ValueError(
            f"{name}: label {as_written(words[known.index(None)])} is no class; choose of {', '.join(classes)}"
        )
    return np.array(known, dtype=np.int64)[places]


def _equal(word: str, reading: Reading = PLAIN_READING) -> Hashable:
    """A key that words share which are equal as numbers, or but for blanks and signs that nobody sees."""
    seen = (sign for sign in unicodedata.normalize("NFC", word) if unicodedata.category(sign) != "Cf")
    text = "".join("".join(seen).split())
    number = None if text.lower() in TRUTH_VALUES else reading.number(text)
    key = key_of(text if number is None or reading == PLAIN_READING else number)
    return text if key is None or isinstance(key, str) else key


def _undecorated(word: str) -> Hashable:
    """A key that words share which people would hardly mean as two classes."""
    text = word.casefold().translate(DASH_SIGNS).replace("_", " ").rstrip(CLOSING_SIGNS)
    if len(text) > 2 and text[0] == text[-1] and text[0] in QUOTATION_MARKS:
        text = text[1:-1].strip().rstrip(CLOSING_SIGNS)
    return _equal(text or word)


def _in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Numbers by value, words by the alphabet."""
    try:
        return tuple(sorted(words, key=float))
    except ValueError:
        return tuple(sorted(words))


def largest_share(labels: Int64[np.ndarray, " records"]) -> float:
    """Share of the largest class among at least one label, which is the accuracy of always naming it."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
