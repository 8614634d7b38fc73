"""Answers of a fleet on disk, a file for each model and query, of which no more is read than is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

Answers = Shaped[np.ndarray, "records *classes"]
Places = Shaped[np.ndarray, "n"] | slice
"""Some of the records: their indices, or a slice."""


@dataclass(frozen=True, eq=False)
class MappedAnswers:
    """Answers as an array (models, records[, queries], classes), or without classes, that is never put together.

    Args:
        files: for each model, for each query, the memory-mapped answers, (records, classes) or (records,).
        places: which of the records count, as an index; None: all.
        change: what is made of the answers to a query when they are read, such as probabilities of logits; a row
            follows from that row alone.
    """

    files: Sequence[Sequence[Answers]]
    places: Shaped[np.ndarray, "..."] | None = None
    change: Callable[[Answers], Answers] | None = None

    def of(self, model: int, query: int = 0, records: Places = slice(None)) -> Answers:
        """The answers of a model to a query about some of the records."""
        answers = self.files[model][query]
        answers = answers[records if self.places is None else self._indices[records]]
        return np.asarray(answers if self.change is None else self.change(np.asarray(answers)))

    def about(self, places: Shaped[np.ndarray, "..."]) -> MappedAnswers:
        """The answers about some of the records, by a mask or by indices."""
        if places.dtype == np.bool_ and places.all():
            return self
        return replace(self, places=places if self.places is None else self._indices[places])

    def changed(self, change: Callable[[Answers], Answers]) -> MappedAnswers:
        """Something else made of each answer.

        Raises:
            ValueError: as `change` does for the first answers.
        """
        changed = replace(self, change=change)
        changed.of(0, 0, slice(1))
        return changed

    def to_first(self, queries: int) -> MappedAnswers:
        """The answers to the first queries alone, with an axis of queries if there was one."""
        return replace(self, files=[list(of_model)[:queries] for of_model in self.files])

    def beside(self, others: MappedAnswers) -> MappedAnswers:
        """The answers of these models and then those of others, about the same records."""
        return replace(self, files=[*self.files, *others.files])

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes and their lengths; a single query has no axis."""
        queries = len(self.files[0])
        records = len(self.files[0][0]) if self.places is None else len(self._indices)
        classes = self.of(0, 0, slice(1)).shape[1:]
        return (len(self.files), records, *((queries,) if queries > 1 else ()), *classes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Kind of the numbers."""
        return self.of(0, 0, slice(1)).dtype

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, models: slice | int) -> MappedAnswers | Shaped[np.ndarray, "records ..."]:
        """Some of the models as they are, or one as an array."""
        if isinstance(models, slice):
            return replace(self, files=self.files[models])
        queries = [self.of(models, query) for query in range(len(self.files[models]))]
        return queries[0] if len(queries) == 1 else np.stack(queries, axis=1)

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "records ..."]]:
        return (np.asarray(self[model]) for model in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory: for few answers alone."""
        return np.stack(list(self)).astype(dtype or self.dtype, copy=False)

    @property
    def _indices(self) -> Shaped[np.ndarray, "places"]:
        assert self.places is not None
        return np.flatnonzero(self.places) if self.places.dtype == np.bool_ else self.places
