"""Labels of a table: words that are equal as numbers, or but for blanks, are one class."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.cells import key_of, quoted
from palisade.fields import as_written

if TYPE_CHECKING:
    import pandas as pd

IGNORED_SIGNS = " .,;:!'\"_-"
"""Signs around and within a word by which no two classes may differ alone."""


def classes_of(setting: str, cells: pd.Series) -> tuple[tuple[str, ...], Int64[np.ndarray, " records"]]:
    """The classes, numbers by value and words by the alphabet, and the class of each record.

    Args:
        setting: that names the column, for errors.
        cells: of `Reading.cells`, none without a value.

    Raises:
        ValueError: if classes differ by case or signs alone, as `<=50K` and `<=50K.` do.
    """
    spelled: dict[Hashable, str] = {}
    for word in sorted(cells.unique(), key=lambda word: (len(word), word)):
        spelled.setdefault(_equal(word), word)
    seen: dict[str, str] = {}
    for word in spelled.values():
        if (other := seen.setdefault(word.casefold().translate(IGNORED_SIGNS_TABLE), word)) != word:
            raise ValueError(
                f"{setting} has classes {quoted(other)} and {quoted(word)}; write them alike, or rename one"
            )
    classes = _in_order(spelled.values())
    number = {word: k for k, word in enumerate(classes)}
    labels = cells.map({word: number[spelled[_equal(word)]] for word in cells.unique()})
    return classes, labels.to_numpy(dtype=np.int64)


IGNORED_SIGNS_TABLE = {ord(sign): None for sign in IGNORED_SIGNS}


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


def _equal(word: str) -> Hashable:
    key = key_of(word)
    return word if key is None or isinstance(key, str) else key


def _in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Numbers by value, words by the alphabet."""
    try:
        return tuple(sorted(words, key=float))
    except ValueError:
        return tuple(sorted(words))
