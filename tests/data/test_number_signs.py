"""Columns of numbers but for some cells are named, and no advice on reading them changes what a number means."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from palisade.data.cells import PLAIN_READING, Reading
from palisade.data.column_kinds import reading_of
from palisade.data.dataset import Dataset, prepare
from palisade.data.split import Roles
from palisade.data.table import Table

CHILDREN_CELLS = [str(k % 6) for k in range(200)]
AGE_CELLS = [str(18 + k % 70) for k in range(200)]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """A table of one column that is shuffled, and labels."""

    def read(cells: list[str], **settings: object) -> Dataset:
        cells = random.Random(0).sample(cells, len(cells))
        rows = [f'"{cell}",{("no", "yes")[k % 2]}' for k, cell in enumerate(cells)]
        (tmp_path / "t.csv").write_text("\n".join(["size,y", *rows]) + "\n")
        return prepare(Table(path=tmp_path / "t.csv", label="y", **settings), Roles(), seed=0)  # type: ignore[arg-type]

    return read


MISTAKEN_CELLS = {
    "a dash among children": (
        [*CHILDREN_CELLS, "-"],
        "set \"data.missing_words=['-']\" if they mean no value, correct",
    ),
    "words among children": (
        [*CHILDREN_CELLS, "none at all", "two"],
        "such as 'two', in rows 75, 128; set \"data.missing_words=[two,'none at all']\" if",
    ),
    "a letter for a digit": (
        [*AGE_CELLS, "O5"],
        "'O5', in rows 74; correct them, or keep words with data.categorical=[size]",
    ),
    "a leading zero": ([*AGE_CELLS, "08"], "; set data.numeric=[size], correct them, or keep words with"),
    "many odd words": (
        [*CHILDREN_CELLS, *(f"see {letter}" for letter in "abcdefgh")],
        "holds numbers but for 8 of 14 different values",
    ),
    "long words": ([*AGE_CELLS, "x" * 200], "; correct them, or keep words"),
}


@pytest.mark.parametrize("what", MISTAKEN_CELLS)
def test_some_cells_among_numbers_are_named(load: Callable[..., Dataset], what: str) -> None:
    cells, message = MISTAKEN_CELLS[what]
    with pytest.raises(ValueError, match=r"^column size holds numbers but for \d+ of") as error:
        load(cells)
    assert message in str(error.value)
    assert load(cells, categorical=["size"], rare=1).shape[0] > 1


def test_words_for_no_value_are_all_named(load: Callable[..., Dataset]) -> None:
    marks = ["none", "n.k.", "refused", "later", "-"]
    with pytest.raises(ValueError) as error:
        load([*AGE_CELLS, *marks])
    (listed,) = re.findall(r"data\.missing_words=\[(.*?)\]", str(error.value))
    assert sorted(word.strip("'") for word in listed.split(",")) == sorted(marks)
    assert load([*AGE_CELLS, *marks], missing_words=marks, missing="impute").shape == (1,)


@pytest.mark.parametrize(
    "cells",
    [
        [
            ("250.1", "401", "V57", "E878", "V12", "V22", "780")[k % 7] if k % 5 == 0 else str(400 + k)
            for k in range(200)
        ],
        [f"{'0' if k % 12 == 0 else ''}{8000 + 17 * (k % 60)}"[:5] for k in range(200)],
        ["True", "False"] * 99 + ["maybe"] * 2,
    ],
    ids=["diagnoses", "postal codes", "truth values"],
)
def test_codes_are_words(load: Callable[..., Dataset], cells: list[str]) -> None:
    assert load(cells, rare=1).shape[0] > 2


CORRUPTING_CELLS = {
    "accounting": ["(19)", "(250)"],
    "a minus of typesetters": ["\u22125", "\u2212120"],
    "thousands and millions": ["12K", "3M"],
    "some in thousands": ["12K", "500K"],
    "two units": ["70 kg", "154 lb"],
    "a unit of some": ["70 kg", "81 kg"],
    "two currencies": ["$5", "€7"],
    "below what is measured": ["<5", "<7"],
    "a ratio of some": ["5 %", "12 %"],
    "two signs for a fraction": ["1,5", "2,25"],
}


@pytest.mark.parametrize("what", CORRUPTING_CELLS)
def test_no_advice_changes_a_number(load: Callable[..., Dataset], what: str) -> None:
    cells = [f"{value}.5" for value in AGE_CELLS] + CORRUPTING_CELLS[what] * 8
    with pytest.raises(ValueError, match=r"^column size holds numbers but for 2 of") as error:
        load(cells)
    line = str(error.value)
    assert not re.search(r"data\.(symbols|decimal|thousands|missing_words|numeric)=", line), line
    assert all(repr(cell) in line for cell in CORRUPTING_CELLS[what][:1]) or repr(CORRUPTING_CELLS[what][1]) in line
    assert "correct them, or keep words with data.categorical=[size]" in line


@pytest.mark.parametrize(
    ("signed", "plain", "reading"),
    [
        (["1,234", "12,345"], ["900"], Reading(thousands=",")),
        (["0,125", "1,234"], [], Reading(decimal=",")),
        (["1,5", "1,234"], [], Reading(decimal=",")),
        (["1.234,5", "7,25"], ["900"], Reading(decimal=",", thousands=".")),
        (["1.234.567"], ["900"], Reading(decimal=",", thousands=".")),
        (["1'234", "12'345.5"], ["7.5"], Reading(thousands="'")),
        (["1 234,5"], ["7"], Reading(decimal=",", thousands=" ")),
        (["$1,234.50", "$7"], [], Reading(thousands=",", symbols=("$",))),
        (["12 %", "7,5 %"], [], Reading(decimal=",", symbols=("%",))),
        (["70 kg", "81.5 kg"], [], Reading(symbols=("kg",))),
        (["70 K", "81.5 K"], [], None),
        (["1,5"], ["1.5"], None),
        (["12 34"], [], None),
        ([], ["5"], None),
    ],
)
def test_the_reading_under_which_all_are_numbers(signed: list[str], plain: list[str], reading: Reading | None) -> None:
    assert reading_of(signed, plain, PLAIN_READING) == reading


def test_what_the_user_has_said_stays() -> None:
    own = Reading(decimal=",", symbols=("$",))
    assert reading_of(["1.234,5"], ["7,5", "$3"], own) == Reading(decimal=",", thousands=".", symbols=("$",))
    assert reading_of(["€3"], ["$3"], own) is None and reading_of(["1.5"], ["1,5"], own) is None
    assert np.isclose(Reading(decimal=",", thousands=" ").number("1 234,5") or 0, 1234.5)


@pytest.mark.parametrize(
    ("form", "symbol"),
    [
        ("{} years", "years"), ("{}°C", "°C"), ("{} zł", "zł"), ("US${}", "US$"), ("R$ {}", "R$"), ("-${}", "$"),
        ("{} mg/dL", "mg/dL"), ("{} percent", "percent"),
    ],
)  # fmt: skip
def test_every_unit_that_all_cells_share_is_read_on_request(
    load: Callable[..., Dataset], form: str, symbol: str
) -> None:
    cells = [form.format(value) for value in AGE_CELLS]
    with pytest.raises(ValueError, match=r"^column size holds numbers but for") as error:
        load(cells)
    assert "data.symbols=[" in str(error.value) and symbol in str(error.value)
    assert load(cells, symbols=[symbol]).shape == (1,)


@pytest.mark.parametrize("form", ["INV-{}", "KLM {}", "{}AB"])
def test_codes_of_persons_are_no_numbers_with_a_unit(load: Callable[..., Dataset], form: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.drop=\[\]: .* size has 200 different words"):
        load([form.format(700_000 + 37 * k) for k in range(200)])


@pytest.mark.parametrize("ends", [("A", "B", "C"), ("st", "nd", "rd", "th"), ("th",)])
def test_seats_and_ordinals_are_words(load: Callable[..., Dataset], ends: tuple[str, ...]) -> None:
    cells = [f"{1 + k % 12}{ends[k % len(ends)]}" for k in range(200)]
    if len(ends) > 1:
        assert load(cells, rare=1).shape[0] > 2
    else:
        with pytest.raises(ValueError, match=r"^column size holds numbers but for") as error:
            load(cells)
        assert "data.symbols" not in str(error.value)
