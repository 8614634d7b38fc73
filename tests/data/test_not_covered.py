"""What private records give away beside a model: named wherever it comes from a private file, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palisade.data.arrays import Arrays
from palisade.data.bundled import BreastCancer, Digits
from palisade.data.columns import Categorical
from palisade.data.dataset import COUNTS, REFERENCE, WORDS, Dataset, prepare
from palisade.data.records import Records
from palisade.data.split import Roles
from palisade.data.table import Table

SCHEMA = {"age": {"center": 40, "scale": 20}, "city": {"categories": ["Bern", "Genf"]}}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Dataset]:
    """A private table of people whose labels are words or numbers."""

    def make(roles: Roles | None = None, *, words: tuple[str, str] = ("ill", "well"), schema: bool = False) -> Dataset:
        rows = [f"{20 + k % 50},{('Bern', 'Genf')[k % 2]},{words[k % 3 > 0]}" for k in range(90)]
        (tmp_path / "people.csv").write_text("\n".join(["age,city,health", *rows]) + "\n")
        (tmp_path / "schema.json").write_text(json.dumps({"columns": SCHEMA}))
        described = str(tmp_path / "schema.json") if schema else None
        source = Table(path=str(tmp_path / "people.csv"), label="health", schema=described)
        return prepare(source, roles or Roles(), seed=0)

    return make


def statistics_of(dataset: Dataset) -> list[str]:
    return [reason for reason in dataset.not_covered(()) if "preprocessing" in reason]


def test_words_of_the_classes_are_named_and_numbers_are_none(table: Callable[..., Dataset]) -> None:
    assert WORDS in table().not_covered(())
    assert WORDS not in table(words=("0", "1")).not_covered(())
    assert WORDS in table(words=("1", "2")).not_covered(()), "which numbers there are was read off the records too"


def test_categories_and_statistics_are_named_unless_a_schema_says_them(table: Callable[..., Dataset]) -> None:
    pool, reference, schema = table(), table(Roles(reference=0.2)), table(schema=True)
    (of_pool,), (of_reference,) = statistics_of(pool), statistics_of(reference)
    for reason in (of_pool, of_reference):
        assert "which columns hold numbers" in reason and "means, deviations, categories and fill values" in reason
    assert "taken from the pool without noise" in of_pool
    assert "taken from reference records without noise, ε does not cover them" in of_reference
    assert statistics_of(schema) == [] and schema.not_covered(()) == (COUNTS, WORDS)
    column = schema.preprocessing.columns["city"]
    assert isinstance(column, Categorical) and column.categories == ("Bern", "Genf")


def test_reference_records_that_a_defense_uses_are_named(table: Callable[..., Dataset]) -> None:
    dataset = table(Roles(reference=0.2), schema=True)
    assert REFERENCE in dataset.not_covered({"reference", "validation"})
    assert REFERENCE not in dataset.not_covered({"validation"})


def test_arrays_hold_no_words_and_are_counted_all_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).normal(size=(60, 3)), y=np.arange(60) % 3)
    dataset = prepare(Arrays(path=str(tmp_path / "mine.npz")), Roles(), seed=0)
    assert dataset.not_covered(()) == (COUNTS,)


@pytest.mark.parametrize("source", [Digits(), BreastCancer()])
def test_published_records_give_nothing_away(source: Digits | BreastCancer) -> None:
    dataset = prepare(source, Roles(reference=0.1), seed=0)
    assert dataset.not_covered({"reference"}) == ()
    assert replace(dataset, published=None).not_covered({"reference"}) != ()


def test_a_published_table_is_no_private_file(table: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    load = Table.load

    def published(self: Table) -> Records:
        return replace(load(self), published="sha256:0a1b")

    monkeypatch.setattr(Table, "load", published)
    assert table(Roles(reference=0.2)).not_covered({"reference"}) == () == table().not_covered(())
