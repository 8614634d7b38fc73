"""Columns of words as a network's inputs: one for each category."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from palisade.data.cells import NONE_WORD, key_of, text_of

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 1000
MAX_EXACT_FLOAT = 2**53
"""The largest float below which each whole number is one of its own."""
OTHER_CATEGORY = "other"
"""The category of words that too few persons share, and of words that occur in no record."""


class RareWordsWarning(UserWarning):
    """All words of a column are rare."""


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """One input per category; an unknown word counts as `other` or is all zeros, a missing one counts as `fill`.

    A word is a category if it is written alike, or if it equals this category alone as a number: 1 is 001.

    Args:
        categories: the words, distinct.
        fill: the category of a missing value; None takes the category None if there is one, and refuses otherwise.
        other: the category of words that are none; None: they are zeros.
    """

    categories: tuple[str, ...]
    fill: str | None = None
    other: str | None = None

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(
                f"categories={list(self.categories)}: expected different words, at least one; list each word once"
            )
        for key, word in (("fill", self.fill), ("other", self.other)):
            if word is not None and word not in self.categories:
                raise ValueError(
                    f"{key}={word}: expected one of {', '.join(self.categories)}; choose one, or leave it out"
                )

    @classmethod
    def fit(
        cls,
        name: str,
        cells: pd.Series,
        missing: str,
        rare: int = 1,
        persons: Int64[np.ndarray, " records"] | None = None,
    ) -> Categorical:
        """All words that enough persons share, in alphabetical order; the most frequent one fills.

        Args:
            name: of the column, for errors.
            cells: of `Reading.cells`.
            missing: `impute` or `error`.
            rare: words of fewer persons are one category together.
            persons: the person of each row; None: each row is another one's.

        Warns:
            RareWordsWarning: if none are shared by enough persons, so that the column is constant.

        Raises:
            ValueError: if too many words are.
        """
        import pandas as pd

        if not _is_shared(cells == NONE_WORD, rare, persons):
            cells = cells.mask(cells == NONE_WORD)  # a missing value, as for pandas
        places, distinct = pd.factorize(cells.astype(object))
        texts = pd.Series([*map(text_of, distinct), np.nan], dtype=object)
        words = pd.Series(texts.to_numpy()[places])
        counts = words.value_counts().sort_index()
        holders = counts if persons is None else pd.Series(persons).groupby(words).nunique()
        frequent = [word for word in counts.index if holders[word] >= rare]
        if len(counts) and not frequent:
            shared = f"stands in data.rare={rare} rows" if persons is None else f"is shared by data.rare={rare} persons"
            warnings.warn(
                f"column {name} says nothing: no word {shared}, and rarer ones are one input; leave it out with"
                f" data.drop=[{name}], or set data.rare={holders.max()}",
                RareWordsWarning,
                stacklevel=2,
            )
        other = OTHER_CATEGORY if len(frequent) < len(counts) else None
        categories = [word for word in frequent if word != other] + ([] if other is None else [other])
        if len(categories) > MAX_CATEGORIES:
            raise ValueError(
                f"column {name} has {len(categories)} different words, at most {MAX_CATEGORIES} are encoded; "
                "leave it out (data.drop), or list those that matter in data.schema"
            )
        if not categories:
            raise ValueError(f"column {name} has no value to learn from; leave it out with data.drop=[{name}]")
        common = NONE_WORD if NONE_WORD in frequent else str(counts[frequent].idxmax()) if frequent else other
        return cls(categories=tuple(categories), fill=common if missing == "impute" else None, other=other)

    @property
    def width(self) -> int:
        """Number of inputs of the column: one per category."""
        return len(self.categories)

    @property
    def fills(self) -> bool:
        """True if a missing value counts as something."""
        return self._default is not None

    def look_up(self, name: str, cells: pd.Series) -> tuple[Float32[np.ndarray, "records categories"], dict[str, int]]:
        """A column's cells one-hot in float32, and how many cells each word has that is no category.

        Args:
            name: of the column, for errors.
            cells: of `Reading.cells`.

        Raises:
            ValueError: if a cell may be two categories.
        """
        codes, unknown = self._codes(name, cells)
        return np.asarray(codes[:, None] == np.arange(self.width), dtype=np.float32), unknown

    @property
    def _default(self) -> str | None:
        return NONE_WORD if self.fill is None and NONE_WORD in self.categories else self.fill

    def _codes(self, name: str, cells: pd.Series) -> tuple[Int64[np.ndarray, " records"], dict[str, int]]:
        """The category of each cell, −1 for none, and how many cells each unknown word has."""
        import pandas as pd

        places, distinct = pd.factorize(cells.astype(object))
        default = -1 if self._default is None else self.categories.index(self._default)
        known = [self._code(name, cell) for cell in distinct]
        counts = np.bincount(places[places >= 0], minlength=len(distinct))
        unknown = {
            str(cell): int(count) for cell, code, count in zip(distinct, known, counts, strict=True) if code is None
        }
        rest = -1 if self.other is None else self.categories.index(self.other)
        codes = [rest if code is None else code for code in known]
        return np.array([*codes, default], dtype=np.int64)[places], unknown

    def _code(self, name: str, cell: Any) -> int | None:
        if isinstance(cell, str) and cell in self._alike.written:
            return self._alike.written[cell]
        if isinstance(cell, float) and abs(cell) > MAX_EXACT_FLOAT:
            raise ValueError(
                f"column {name}: {cell:g} is beyond the whole numbers that floats tell apart; give text (pandas:"
                " dtype=str), or the file's path"
            )
        alike = self._alike.equal.get(key_of(cell), ())
        if len(alike) > 1:
            words = " or ".join(self.categories[place] for place in alike)
            raise ValueError(
                f"column {name}: {cell} may be {words}; give words as they are written, or the file's path"
            )
        return alike[0] if alike else None

    @cached_property
    def _alike(self) -> _Alike:
        equal: dict[Any, tuple[int, ...]] = {}
        for place, word in enumerate(self.categories):
            if (key := key_of(word)) is not None:
                equal[key] = (*equal.get(key, ()), place)
        return _Alike({word: place for place, word in enumerate(self.categories)}, equal)


class _Alike(NamedTuple):
    """Places of categories, by the word and by what equals it."""

    written: Mapping[str, int]
    equal: Mapping[Any, tuple[int, ...]]


def _is_shared(rows: pd.Series, rare: int, persons: Int64[np.ndarray, " records"] | None) -> bool:
    """True if so many persons have one of these rows."""
    chosen = np.flatnonzero(rows)
    return len(chosen if persons is None else np.unique(persons[chosen])) >= rare
