"""Cells of tables: what is missing, what is a number, and the forms in which rows come."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.data.cells import MISSING_WORDS, NONE_WORD, PLAIN_READING, Reading, key_of
from palisade.data.table_reader import read_table, table_of


def save(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


def test_missing_words_are_those_of_pandas_but_none_and_a_question_mark() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(MISSING_WORDS) == (STR_NA_VALUES - {NONE_WORD}) | {"?"}


def test_cells_are_stripped_and_missing_ones_known() -> None:
    values = pd.Series([" Private", "?", " ? ", "", None, "None", "001", 1, 2.5, True, pd.Timestamp("2020-04-30")])
    cells = PLAIN_READING.cells(values.to_frame("x"))["x"].tolist()
    assert cells[:1] + cells[5:] == ["Private", "None", "001", 1, 2.5, True, "2020-04-30"]
    assert pd.isna(cells[1:5]).all()
    assert pd.isna(Reading(missing_words=("-",)).cells(pd.DataFrame({"x": ["-", "a"]})))["x"].tolist() == [True, False]
    with pytest.raises(ValueError, match=r"^column x holds lists"):
        PLAIN_READING.cells(pd.DataFrame({"y": ["a", "b"], "x": [[1], [2]]}))


@pytest.mark.parametrize(
    ("reading", "text", "number"),
    [
        (PLAIN_READING, "-1.5e3", -1500.0),
        (PLAIN_READING, "+.5", 0.5),
        (PLAIN_READING, "True", 1.0),
        (PLAIN_READING, "FALSE", 0.0),
        (PLAIN_READING, "1,5", None),
        (PLAIN_READING, "1_000", None),
        (PLAIN_READING, "12 kg", None),
        (PLAIN_READING, "٣", None),
        (Reading(thousands=","), "1,234,567.5", 1234567.5),
        (Reading(thousands=","), "1,5", None),
        (Reading(thousands=","), "12,34", None),
        (Reading(decimal=",", thousands="."), "-1.234,5", -1234.5),
        (Reading(decimal=","), "1.5", None),
        (Reading(symbols=("$", "%")), "$12.00", 12.0),
        (Reading(symbols=("$", "%")), "17 %", 17.0),
    ],
)
def test_numbers_as_they_are_written(reading: Reading, text: str, number: float | None) -> None:
    assert reading.number(text) == number


def test_a_word_among_numbers_is_named_with_its_row() -> None:
    with pytest.raises(ValueError, match=r"^column age has 'old' among its numbers, in row 3"):
        PLAIN_READING.numbers(pd.DataFrame({"id": ["4", "5", "6"], "age": ["1", np.nan, "old"]}, dtype=object))


def test_equal_numbers_have_one_key() -> None:
    assert len({key_of(cell) for cell in ("1", "001", "1.0", "1e0", 1, 1.0, np.int64(1), np.float32(1))}) == 1
    assert key_of("True") == key_of(True) == key_of("TRUE") != key_of("1")
    assert key_of(2**53 + 1) == key_of(str(2**53 + 1)) != key_of(2**53)
    assert key_of("0.1") == key_of(0.1 + 1e-17) and key_of("a") is None and key_of("inf") is None


def test_a_file_is_read_as_text(tmp_path: Path) -> None:
    table = read_table("rows", save(tmp_path, " code , place\n001, Bern\n?,  \n"))
    assert table.to_dict("list") == {"code": ["001", "?"], "place": ["Bern", ""]}


@pytest.mark.parametrize(
    "rows",
    [
        {"a": "001", "b": 2},
        {"a": ["001"], "b": np.array([2])},
        [{"a": "001", "b": 2}],
        pd.DataFrame({"a": ["001"], " b ": [2]}),
    ],
)
def test_rows_in_any_form_are_a_table(rows: Any) -> None:
    assert table_of(rows).astype(object).to_dict("records") == [{"a": "001", "b": 2}]


@pytest.mark.parametrize(
    "rows", [None, 5, [], [1, 2], np.zeros((2, 2)), {}, {"a": [1], "b": 2}, {"a": [1], "b": [1, 2]}, b"path"]
)
def test_anything_else_is_refused_in_one_line(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^rows are .*; give ") as error:
        table_of(rows)
    assert "\n" not in str(error.value)


def test_a_decimal_of_a_database_is_the_number_that_it_is() -> None:
    frame = pd.DataFrame({"x": [Decimal("66.690"), Decimal("1")]}, dtype=object)
    assert PLAIN_READING.numbers(PLAIN_READING.cells(frame))[:, 0].tolist() == [66.69, 1.0]
    other = Reading(decimal=",", thousands=".")
    with pytest.raises(ValueError, match=r"^column x holds the number 66\.69, .* give text"):
        other.numbers(other.cells(frame))


def test_numbers_that_stand_for_no_value_are_missing_in_every_form() -> None:
    reading = Reading(missing_words=("-999", "unknown"))
    for values in ([-999, 5], [-999.0, 5], ["-999", "5"], ["-999.0", "5"], ["unknown", 5]):
        assert pd.isna(reading.cells(pd.DataFrame({"x": values})))["x"].tolist() == [True, False], values


@pytest.mark.parametrize("content", [5, [], {"decimal": 5}, {"thousands": "ab"}, {"symbols": 3}])
def test_a_reading_is_what_to_json_wrote(content: Any) -> None:
    reading = Reading(missing_words=("-",), decimal=",", thousands=".", symbols=("$",))
    assert Reading.from_json(reading.to_json()) == reading and Reading.from_json({}) == PLAIN_READING
    with pytest.raises(ValueError, match=r"^reading=.*: expected missing_words"):
        Reading.from_json(content)
