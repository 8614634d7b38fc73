"""Facts about private records beside a model are named wherever they come from a private file, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palisade.data.arrays import Arrays
from palisade.data.bundled import BreastCancer, Digits
from palisade.data.categorical import Categorical
from palisade.data.dataset import (
    CLASS_WORDS_NOT_COVERED,
    COUNTS_NOT_COVERED,
    REFERENCE_NOT_COVERED,
    VALIDATION_NOT_COVERED,
    Dataset,
    prepare,
)
from palisade.data.records import Records
from palisade.data.split import Roles
from palisade.data.table import Table
from palisade.defenses.parts.reference import STUDENT_RESTRICTION

TABLE_SCHEMA = {"age": {"center": 40, "scale": 20}, "city": {"categories": ["Bern", "Genf"]}}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Dataset]:
    """A private table of people whose labels are words or numbers."""

    def make(roles: Roles | None = None, *, words: tuple[str, str] = ("ill", "well"), schema: bool = False) -> Dataset:
        rows = [f"{20 + k % 50},{('Bern', 'Genf')[k % 2]},{words[k % 3 > 0]}" for k in range(90)]
        (tmp_path / "people.csv").write_text("\n".join(["age,city,health", *rows]) + "\n")
        (tmp_path / "schema.json").write_text(json.dumps({"columns": TABLE_SCHEMA}))
        described = str(tmp_path / "schema.json") if schema else None
        source = Table(path=str(tmp_path / "people.csv"), label="health", schema=described)
        return prepare(source, roles or Roles(), seed=0)

    return make


def statistics_of(dataset: Dataset) -> list[str]:
    return [reason for reason in dataset.not_covered(()) if "preprocessing" in reason]


def test_words_of_the_classes_are_named_and_numbers_are_none(table: Callable[..., Dataset]) -> None:
    assert CLASS_WORDS_NOT_COVERED in table().not_covered(())
    assert CLASS_WORDS_NOT_COVERED not in table(words=("0", "1")).not_covered(())
    assert CLASS_WORDS_NOT_COVERED in table(words=("1", "2")).not_covered(()), (
        "which numbers there are was read off the records too"
    )


def test_categories_and_statistics_are_named_unless_a_schema_says_them(table: Callable[..., Dataset]) -> None:
    pool, reference, schema = table(), table(Roles(reference=0.2)), table(schema=True)
    (of_pool,), (of_reference,) = statistics_of(pool), statistics_of(reference)
    for reason in (of_pool, of_reference):
        assert "which columns hold numbers" in reason and "means, deviations, categories and fill values" in reason
    assert "taken from the pool without noise" in of_pool
    assert "taken from reference records without noise, ε does not cover them" in of_reference
    assert statistics_of(schema) == [] and schema.not_covered(()) == (COUNTS_NOT_COVERED, CLASS_WORDS_NOT_COVERED)
    column = schema.preprocessing.columns["city"]
    assert isinstance(column, Categorical) and column.categories == ("Bern", "Genf")


def test_reference_records_that_a_defense_uses_are_named(table: Callable[..., Dataset]) -> None:
    dataset = table(Roles(reference=0.2), schema=True)
    assert f"18 reference records, {REFERENCE_NOT_COVERED}" in dataset.not_covered({"reference", "validation"})
    assert not any(REFERENCE_NOT_COVERED in reason for reason in dataset.not_covered({"validation"}))


def test_validation_records_that_choices_were_made_by_are_named(table: Callable[..., Dataset]) -> None:
    dataset = table(Roles(pool=0.5, validation=0.25))
    count = len(dataset.split.validation)
    assert count and f"{count} validation records, {VALIDATION_NOT_COVERED}" in dataset.not_covered({"validation"})
    for without, roles in ((dataset, {"reference"}), (table(), {"validation"})):
        assert not any(VALIDATION_NOT_COVERED in reason for reason in without.not_covered(roles))


@pytest.mark.parametrize("schema", [False, True])
def test_reference_records_of_a_public_file_are_covered_by_nothing_to_cover(
    table: Callable[..., Dataset], tmp_path: Path, schema: bool
) -> None:
    alone = table(schema=schema)
    rows = [f"{50 + k % 9},{('Bern', 'Basel')[k % 2]},{('ill', 'well')[k % 3 > 0]}" for k in range(30)]
    (tmp_path / "public.csv").write_text("\n".join(["age,city,health", *rows]) + "\n")
    source = Table(
        path=str(tmp_path / "people.csv"), label="health", reference=str(tmp_path / "public.csv"),
        schema=str(tmp_path / "schema.json") if schema else None,
    )  # fmt: skip
    dataset = prepare(source, Roles(), seed=0)
    assert dataset.split.reference.tolist() == list(range(90, 120))
    np.testing.assert_array_equal(dataset.split.pool, alone.split.pool)
    assert dataset.not_covered({"reference"}) == (COUNTS_NOT_COVERED, CLASS_WORDS_NOT_COVERED)
    if not schema:
        city = dataset.preprocessing.columns["city"]
        assert isinstance(city, Categorical) and city.categories == ("Basel", "Bern"), (
            "rare words of public records stay"
        )
        assert dataset.preprocessing.columns["age"].center == pytest.approx(np.mean([50 + k % 9 for k in range(30)]))
        assert dataset.x[1, 1:].tolist() == [0, 0], "Genf is a word of private records alone"
        assert list(source.read_slices().words) == []


def test_reference_rows_of_the_private_file_are_never_public(table: Callable[..., Dataset]) -> None:
    dataset = table(Roles(reference=0.2))
    (own,) = [reason for reason in dataset.not_covered(()) if REFERENCE_NOT_COVERED in reason]
    assert own.startswith("18 reference records, from the same private file") and "public" not in own
    assert "treated as public" not in STUDENT_RESTRICTION


def test_what_cannot_be_a_public_file(table: Callable[..., Dataset], tmp_path: Path) -> None:
    table()
    path, public = str(tmp_path / "people.csv"), tmp_path / "public.csv"
    cases = {
        "expected the columns of data.path, and city is none": "age,health\n1,ill\n2,well\n",
        "1 of its persons are in data.path too": "age,city,health\n20,Bern,ill\n200,Bern,well\n",
    }
    for message, text in cases.items():
        public.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            Table(path=path, label="health", person="age", reference=str(public)).load()
        assert str(error.value).startswith(f"data.reference={public}")
    with pytest.raises(ValueError, match=r"expected another file than data\.path"):
        Table(path=path, label="health", reference=path).load()
    public.write_text("age,city,health\n20,Bern,ill\n21,Bern,well\n")
    with pytest.raises(ValueError, match=r"^split\.reference=0\.1: expected 0 beside data\.reference"):
        prepare(Table(path=path, label="health", reference=str(public)), Roles(reference=0.1), seed=0)


def test_persons_of_a_public_file_may_be_unnamed(table: Callable[..., Dataset], tmp_path: Path) -> None:
    table()
    text = (tmp_path / "people.csv").read_text().splitlines()
    named = [text[0] + ",id", *(f"{line},p{k // 3}" for k, line in enumerate(text[1:]))]
    (tmp_path / "named.csv").write_text("\n".join(named) + "\n")
    source = Table(
        path=str(tmp_path / "named.csv"), label="health", person="id", slices=["city"],
        reference=str(tmp_path / "public.csv"),
    )  # fmt: skip
    (tmp_path / "public.csv").write_text("\n".join(text[:31]) + "\n")
    with pytest.raises(ValueError, match=r"^data\.reference=.*: expected .* public, and 30 of its 30 rows are rows of"):
        source.load()
    rows = [f"{200 + k},{('Bern', 'Genf')[k % 2]},{('ill', 'well')[k % 3 > 0]}" for k in range(30)]
    (tmp_path / "public.csv").write_text("\n".join([text[0], *rows]) + "\n")
    records = source.load()
    assert records.persons is not None and len(np.unique(records.persons)) == 30 + 30
    assert len(source.read_slices().words["city"]) == 120


def people(rng: np.random.Generator, rows: int, *, ages: int) -> list[str]:
    """Rows of one population, the more of them equal the fewer ages there are."""
    return [
        f"{rng.integers(ages)},{rng.choice(['Bern', 'Genf'])},{'ill' if rng.random() < 0.3 else 'well'}"
        for _ in range(rows)
    ]


@pytest.mark.parametrize("ages", [10**6, 2000, 20, 3])
def test_rows_of_the_private_file_are_refused_and_equal_ones_by_chance_are_not(tmp_path: Path, ages: int) -> None:
    rng = np.random.default_rng(0)
    private, others = people(rng, 400, ages=ages), people(rng, 200, ages=ages)

    def outcome(rows: list[str]) -> str | None:
        for name, lines in (("private", private), ("public", rows)):
            (tmp_path / f"{name}.csv").write_text("\n".join(["age,city,health", *lines]) + "\n")
        try:
            Table(path=tmp_path / "private.csv", label="health", reference=tmp_path / "public.csv").load()
        except ValueError as error:
            return str(error)
        return None

    assert outcome(others) is None and outcome(people(rng, 20 * len(private), ages=ages)) is None
    copies = {
        "a copy": private,
        "in another order": private[::-1],
        "as decimals": [row.replace(",", ".0,", 1) for row in private],
    }
    if ages > 1000:
        copies |= {
            "a part": private[:60],
            "among others": [*others, *private[:60]],
            "all among many": [*people(rng, 4000, ages=10**6), *private],
        }
    for what, rows in copies.items():
        line = outcome(rows)
        assert line and line.startswith("data.reference=") and "rows are rows of data.path; remove them" in line, what


def test_arrays_hold_no_words_and_are_counted_all_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).normal(size=(60, 3)), y=np.arange(60) % 3)
    dataset = prepare(Arrays(path=str(tmp_path / "mine.npz")), Roles(), seed=0)
    assert dataset.not_covered(()) == (COUNTS_NOT_COVERED,)


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
