"""A data set ready for training: loaded, roles dealt out, turned into numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from palisade.data.canaries import Canaries
from palisade.data.columns import Columns, UnfittedColumns, UnknownWordsWarning, unknown_words_line
from palisade.data.document_canaries import plant_documents
from palisade.data.labels import is_numbered, numbers_of_classes
from palisade.data.preprocessing import Preprocessing
from palisade.data.records import Records, Source
from palisade.data.scattering import Scattering
from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.data.settings import instantiated, validated
from palisade.data.split import Roles, Split
from palisade.data.subwords import UnfittedSubwords

COUNTS_NOT_COVERED = "how many records and classes there are, and the shape of a record: treated as public"
CLASS_WORDS_NOT_COVERED = (
    "the words of the classes: read off the private records; a file that numbers its classes 0, 1, … holds none"
)
VALIDATION_NOT_COVERED = "by which choices were made without noise: ε does not protect them"
REFERENCE_NOT_COVERED = "from the same private file as the pool, are used without noise: ε does not protect them"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The data that targets, defenses and the evaluation work on.

    Args:
        name: part of a run's folder.
        x: inputs, numbers or the numbers of words, in memory or memory-mapped.
        y: labels, 0..C−1; of documents one at every position, the next token, and −1 behind the last one.
        classes: the C words that the labels stand for.
        split: the role of each record.
        preprocessing: from raw rows to `x`; it travels with the release.
        fingerprint: of the raw content, for cache keys; never to be published.
        published: the checksum by which public data are known, or None for private data.
        public_reference: whether the reference records are those of a public file of their own.
    """

    name: str
    x: Float32[np.ndarray, "records *shape"] | Int64[np.ndarray, "records *shape"]
    y: Int64[np.ndarray, "records *positions"]
    classes: tuple[str, ...]
    split: Split
    preprocessing: Preprocessing
    fingerprint: str
    published: str | None
    public_reference: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one record's input."""
        return self.preprocessing.shape

    @property
    def positional(self) -> bool:
        """True for documents: a class at every position, which is what language models are trained on."""
        return self.y.ndim > 1

    @property
    def labels(self) -> Int64[np.ndarray, " records"]:
        """One class of each record: documents are all of one."""
        return np.zeros(len(self.y), dtype=np.int64) if self.positional else self.y

    def not_covered(self, roles: Collection[str]) -> tuple[str, ...]:
        """Facts about private records that are published beside a model without noise, outside its privacy claim.

        Published records reveal nothing that is not public.

        Args:
            roles: the split's roles that a defense trains or tunes on, besides the pool.
        """
        if self.published is not None:
            return ()
        preprocessed = self.preprocessing.statistics == "reference"
        reasons = (
            COUNTS_NOT_COVERED,
            None if is_numbered(self.classes) else CLASS_WORDS_NOT_COVERED,
            self.preprocessing.not_covered,
            self._reference if "reference" in roles or preprocessed else None,
            self._validation if "validation" in roles else None,
        )
        return tuple(reason for reason in reasons if reason is not None)

    @property
    def _validation(self) -> str | None:
        """Sentence on validation records; None where there are none."""
        count = len(self.split.validation)
        return f"{count:,} validation records, {VALIDATION_NOT_COVERED}" if count else None

    @property
    def _reference(self) -> str | None:
        """Sentence on reference records of the private file; None where there are none."""
        records, persons = self.split.reference, self.split.record_persons
        if self.public_reference or not len(records):
            return None
        whose = "" if persons is None else f" of {len(np.unique(persons[records])):,} persons"
        return f"{len(records):,} reference records{whose}, {REFERENCE_NOT_COVERED}"


def prepare(source: Source, roles: Roles, seed: int) -> Dataset:
    """Loads the records, deals out their roles by the public seed, and fits the preprocessing.

    Statistics come from reference records if there are any, otherwise from the pool; the statement names either as not
    covered by ε (`Dataset.not_covered`), but for reference records of a public file.
    """
    records = source.load()
    split = roles.draw(
        len(records.rows), records.persons, seed, records.published_test, records.reference, records.test
    )
    preprocessing = _fit(records, split)
    fingerprint = records.fingerprint()
    y, classes = _labels(records, preprocessing)
    return Dataset(
        name=records.name,
        x=_inputs(records, preprocessing, fingerprint),
        y=y,
        classes=classes,
        split=split,
        preprocessing=preprocessing,
        fingerprint=fingerprint,
        published=records.published,
        public_reference=records.reference is not None,
    )


def with_canaries(dataset: Dataset, canaries: Canaries, seed: int) -> Dataset:
    """This data set with canaries in its pool; its fingerprint stays that of the records they are made from."""
    if dataset.positional:
        assert isinstance(dataset.preprocessing, Sequences)
        planted = plant_documents(canaries, dataset.y, dataset.split, dataset.preprocessing, seed)
        return replace(dataset, x=dataset.preprocessing.inputs_of(planted.y), y=planted.y, split=planted.split)
    x, y, split = canaries.plant(dataset.x, dataset.y, dataset.split, classes=len(dataset.classes), seed=seed)
    return replace(dataset, x=x, y=y, split=split)


def from_config(config: Mapping[str, Any]) -> Dataset:
    """The data set of a run's configuration (`data`, `split`, `seed`, `canary`), loaded once per process."""
    settings = data_settings(config)
    return _shipped.get(settings) or _load(settings)


def data_settings(config: Mapping[str, Any]) -> str:
    """Settings that a data set follows from, in one text."""
    return json.dumps([config["data"], config["split"], config["seed"], config.get("canary") or {}])


_shipped: dict[str, Dataset] = {}


@contextmanager
def shipped(datasets: Mapping[str, Dataset]) -> Iterator[None]:
    """Has data sets that came from another machine used, until the block ends, where their files are not.

    Args:
        datasets: by their `data_settings`.
    """
    _shipped.update(datasets)
    try:
        yield
    finally:
        _shipped.clear()


@lru_cache(maxsize=2)
def _load(settings: str) -> Dataset:
    data, split, seed, canary = json.loads(settings)
    dataset = prepare(instantiated("data", data, Source), validated(Roles, "split", split), seed)
    return with_canaries(dataset, validated(Canaries, "canary", canary), seed) if canary else dataset


def _fit(records: Records, split: Split) -> Preprocessing:
    if isinstance(records.preprocessing, UnfittedSubwords):
        texts, fits = list(records.rows), len(split.reference) > 0
        chosen = split.reference if fits else split.pool
        return records.preprocessing.fit([texts[record] for record in chosen], "reference" if fits else "private")
    if not isinstance(records.preprocessing, UnfittedColumns):
        return records.preprocessing
    table: Any = records.rows
    if records.reference is not None:
        return records.preprocessing.fit(table.iloc[split.reference], "public")
    if len(split.reference):
        return records.preprocessing.fit(
            table.iloc[split.reference], "reference", _of(records.persons, split.reference)
        )
    return records.preprocessing.fit(table.iloc[split.pool], "private", _of(records.persons, split.pool))


def _labels(
    records: Records, preprocessing: Preprocessing
) -> tuple[Int64[np.ndarray, "records *positions"], tuple[str, ...]]:
    """The classes of records, or the tokens of documents, with their words."""
    if records.labels is not None:
        return records.labels, records.classes
    assert isinstance(preprocessing, Sequences) and isinstance(records.rows, np.ndarray)
    y = preprocessing.labels(records.rows)
    if empty := int((y[:, 0] == NO_TOKEN).sum()):
        raise ValueError(
            f"data {records.name}: expected a token in each document; remove the {empty:,} of which data.tokens makes"
            " none"
        )
    return y, numbers_of_classes(preprocessing.vocabulary)


def _of(persons: Int64[np.ndarray, " records"] | None, chosen: Int64[np.ndarray, " part"]) -> Any:
    return None if persons is None else persons[chosen]


def _inputs(records: Records, preprocessing: Preprocessing, fingerprint: str) -> Shaped[np.ndarray, "records ..."]:
    """Slow features of public records are kept between runs; those of private ones never reach a shared cache."""
    rows: Any = records.rows
    if isinstance(preprocessing, Columns):
        inputs, unknown = preprocessing.encode(rows)
        line = unknown_words_line(unknown)
        if line is not None and preprocessing.not_covered is None:  # rare words of private rows are not reported
            warnings.warn(f"data {records.name}: rows hold {line}", UnknownWordsWarning, stacklevel=2)
        return inputs
    if isinstance(preprocessing, Scattering) and records.published is not None:
        return preprocessing.cached_features(rows, fingerprint)
    return preprocessing(rows)
