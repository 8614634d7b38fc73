"""Slices: columns that part the records into groups by which results are read; no model learns from being in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from palisade.data.settings import instantiated

MAX_GROUPS = 20
"""Groups of one column: more would be too small to say anything of."""
NO_WORD = "missing"
"""The word of records that have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slices:
    """The group of every record, by column.

    Args:
        words: for each column the word of every record of the data set.

    Raises:
        ValueError: if a column has too many different words.
    """

    words: Mapping[str, Shaped[np.ndarray, " records"]]

    def __post_init__(self) -> None:
        for name, words in self.words.items():
            if (groups := len(np.unique(words))) > MAX_GROUPS:
                raise ValueError(
                    f"data.slices={name}: expected a column of at most {MAX_GROUPS} different values, not {groups};"
                    " name one of bands, such as 18-39, 40-64, 65+"
                )

    @classmethod
    def of(cls, data: Mapping[str, Any], names: Sequence[str] | None = None) -> Slices:
        """The slices of the data of a run's configuration.

        Args:
            data: the node of the source.
            names: other columns than the configuration's own.

        Raises:
            ValueError: if they are no list, or the data have no such column.
        """
        chosen = data.get("slices") or () if names is None else names
        check_columns(chosen, "data.slices")
        return _load(json.dumps({**data, "slices": list(chosen)}))

    def groups(self, records: Int64[np.ndarray, " part"]) -> Iterator[tuple[str, Bool[np.ndarray, " part"]]]:
        """Each group that some of these records are in, such as `sex=f`, and which of them are."""
        for name, words in self.words.items():
            own = words[records]
            for word in np.unique(own):
                yield f"{name}={word}", own == word

    @property
    def digest(self) -> str:
        """Of columns and words, for cache keys; of private data, never to be published."""
        words = {name: words.tolist() for name, words in self.words.items()}
        return hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()


NO_SLICES = Slices(words={})


def check_columns(names: Any, key: str = "slices") -> None:
    """Raises ValueError unless these are different names; `key` is their setting."""
    if isinstance(names, str) or not isinstance(names, Sequence) or len(set(map(str, names))) < len(names):
        raise ValueError(f"{key}={names}: expected a list of different columns; write such as {key}=[sex,region]")


@lru_cache(maxsize=2)
def _load(data: str) -> Slices:
    node = json.loads(data)
    if not node["slices"]:
        return NO_SLICES
    source: Any = instantiated("data", node, object)  # one without slices has no such setting
    return source.read_slices()
