"""Columns that a model must not be given, and how each is read instead: names, numbers for words, dates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.data.categorical import RareWordsWarning
from palisade.data.columns import Columns
from palisade.data.dataset import Dataset, prepare
from palisade.data.settings import instantiated
from palisade.data.split import Roles
from palisade.data.table import Table

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SEEDED_RNG = np.random.default_rng(0)
TABLE_LENGTH = 120
AGE_CELLS = [f"{age}" for age in SEEDED_RNG.integers(18, 90, TABLE_LENGTH)]
PRICE_CELLS = [f"{price:.2f}" for price in SEEDED_RNG.uniform(1, 99, TABLE_LENGTH)]
GROUPED_CELLS = [f"{value:,}" for value in SEEDED_RNG.integers(900, 99_999, TABLE_LENGTH)]


def table(folder: Path, **columns: Any) -> dict[str, str]:
    """The path of a table with these columns, an age and a label."""
    columns = {**columns, "amount": [str(k % 50) for k in range(TABLE_LENGTH)], "y": ["no", "yes"] * 60}
    lines = [",".join(f'"{cell}"' for cell in row) for row in zip(*columns.values(), strict=True)]
    (folder / "t.csv").write_text("\n".join([",".join(f'"{name}"' for name in columns), *lines]) + "\n")
    return {"path": str(folder / "t.csv"), "label": "y"}


def prepared(folder: Path, settings: dict[str, Any], **columns: Any) -> Dataset:
    return prepare(Table(**table(folder, **columns), **settings), Roles(), seed=0)


def refusal(folder: Path, **columns: Any) -> str:
    with pytest.raises(ValueError) as error:
        prepared(folder, {}, **columns)
    assert "\n" not in str(error.value)
    return str(error.value)


def proposed(line: str, key: str) -> dict[str, Any]:
    """The settings of the table after those proposed in an error were given to the command as they are written."""
    words = [word.strip('"') for word in re.findall(r'"data\.[^"]*"|data\.\w+=(?:\[[^\]]*\]|[^\s,;:]+)', line)]
    chosen = [word for word in words if word.startswith(f"data.{key}=") and word != f"data.{key}=[]"]
    assert chosen, line
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = compose("train", ["data=csv", "data.path=a", "data.label=b", *chosen])
    return {word.split("=")[0][5:]: OmegaConf.to_container(config.data)[word.split("=")[0][5:]] for word in chosen}


PERSON_NAMES = [f"person {k % 113}" for k in range(TABLE_LENGTH)]
IDENTIFIER_COLUMNS = {
    "names": ("passenger", PERSON_NAMES),
    "words with codes": ("ticket", [f"PC {k} A" for k in range(TABLE_LENGTH)]),
    "padded numbers": ("record", [f"{k:05}" for k in range(TABLE_LENGTH)]),
    "consecutive": ("row", [str(k + 7) for k in SEEDED_RNG.permutation(TABLE_LENGTH)]),
    "sorted": ("visit", [str(k) for k in np.sort(SEEDED_RNG.choice(10**6, TABLE_LENGTH, replace=False))]),
    "named": ("customerID", [str(k) for k in SEEDED_RNG.choice(10**6, TABLE_LENGTH, replace=False)]),
    "several words in the name": (
        "patient_nbr",
        [str(k) for k in SEEDED_RNG.choice(10**9, TABLE_LENGTH, replace=False)],
    ),
    "blanks in the name": ("full name", PERSON_NAMES),
    "other letters": ("prénom", PERSON_NAMES),
    "a number as name": ("0", PERSON_NAMES),
    "a reserved name": ("null", PERSON_NAMES),
    "a quote": ("person's name", PERSON_NAMES),
}


@pytest.mark.parametrize("kind", IDENTIFIER_COLUMNS)
def test_identifiers_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, cells = IDENTIFIER_COLUMNS[kind]
    line = refusal(tmp_path, age=AGE_CELLS, **{name: cells})
    settings = proposed(line, "drop")
    assert settings == {"drop": [name]}
    dataset = prepared(tmp_path, settings, age=AGE_CELLS, **{name: cells})
    assert isinstance(dataset.preprocessing, Columns) and list(dataset.preprocessing.columns) == ["age", "amount"]


@pytest.mark.parametrize(
    "name",
    [
        *("IDs", "patientIDs", "passengerid", "PassengerId", "userid", "Kundennr", "patient_nbr", "account_no", "ID2"),
        *(
            "invoice number",
            "phonenumbers",
            "zip codes",
            "Fallnummer",
            "SSN",
            "identifier",
            "Número",
            "código",
            "numéro",
        ),
        *("No", "No.", "num", "patientno", "номер"),
    ],
)
def test_numbers_that_are_called_identifiers_may_have_a_repeat(tmp_path: Path, name: str) -> None:
    cells = [str(k) for k in SEEDED_RNG.choice(10**6, TABLE_LENGTH, replace=False)]
    assert proposed(refusal(tmp_path, **{name: cells}), "drop") == {"drop": [name]}
    assert proposed(refusal(tmp_path, **{name: [*cells[1:], cells[-1]]}), "drop") == {"drop": [name]}
    assert name in prepared(tmp_path, {}, **{name: [*cells[4:], *cells[:4:-1][:4]]}).preprocessing.columns


@pytest.mark.parametrize("name", ["paid", "uric_acid", "no_of_visits", "lipids", "grid", "income", "idle", "casino"])
def test_other_names_are_none_of_identifiers(tmp_path: Path, name: str) -> None:
    cells = [str(k) for k in SEEDED_RNG.choice(10**6, TABLE_LENGTH, replace=False)]
    assert name in prepared(tmp_path, {}, **{name: cells}).preprocessing.columns


@pytest.mark.parametrize("order", ["consecutive", "sorted"])
def test_counted_rows_may_have_a_repeat_or_a_gap(tmp_path: Path, order: str) -> None:
    cells = SEEDED_RNG.permutation(TABLE_LENGTH) if order == "consecutive" else np.arange(TABLE_LENGTH) ** 2
    for changed in (np.concatenate([cells[:-1], cells[-2:-1]]), np.where(cells == 60, TABLE_LENGTH, cells)):
        line = refusal(tmp_path, row=[str(k) for k in changed])
        assert proposed(line, "drop") == {"drop": ["row"]} and order in line


def test_several_are_named_at_once(tmp_path: Path) -> None:
    line = refusal(tmp_path, name=PERSON_NAMES, id=[str(k) for k in range(TABLE_LENGTH)])
    assert proposed(line, "drop") == {"drop": ["name", "id"]}


NO_IDENTIFIERS = {
    "all distinct, in no order": ("income", [str(k) for k in SEEDED_RNG.choice(10**6, TABLE_LENGTH, replace=False)]),
    "fractions, all distinct, sorted": ("score_id", [f"{k}.5" for k in range(TABLE_LENGTH)]),
    "named, but shared": ("zip_code", [str(k) for k in SEEDED_RNG.integers(1000, 1100, TABLE_LENGTH)]),
    "words that persons share": ("city", [f"city {k % 100}" for k in range(TABLE_LENGTH)]),
    "constant": ("unit", ["kg"] * TABLE_LENGTH),
}


@pytest.mark.parametrize("kind", NO_IDENTIFIERS)
def test_other_columns_are_taken(tmp_path: Path, kind: str) -> None:
    name, cells = NO_IDENTIFIERS[kind]
    assert name in prepared(tmp_path, {}, **{name: cells}).preprocessing.columns


def test_what_names_a_person_who_has_several_rows_is_refused_too(tmp_path: Path) -> None:
    persons = {
        "patient": [f"p{k // 4}" for k in range(TABLE_LENGTH)],
        "name": [f"name {k // 4}" for k in range(TABLE_LENGTH)],
    }
    with pytest.raises(ValueError, match=r"name has 30 different words of 30 persons; set data\.drop=\[name\]"):
        prepared(tmp_path, {"person": "patient"}, **persons)


@pytest.mark.parametrize(
    ("settings", "width"), [({"categorical": ["rank"], "rare": 1}, 84), ({"numeric": ["rank"]}, 1)]
)
def test_a_column_that_only_looks_like_one_stays_on_request(
    tmp_path: Path, settings: dict[str, Any], width: int
) -> None:
    dataset = prepared(tmp_path, settings, rank=[str(k) for k in range(TABLE_LENGTH)])
    assert dataset.preprocessing.columns["rank"].width == width


@pytest.mark.parametrize("persons", [1, 4])
def test_a_column_of_rare_words_alone_is_told(tmp_path: Path, persons: int) -> None:
    columns: dict[str, Any] = {"time": [f"{k % 40:02}:30" for k in range(TABLE_LENGTH)]}
    columns["time"][:5] = ["40:30"] * 5
    settings = {"person": "patient"} if persons > 1 else {}
    if persons > 1:
        columns["patient"] = [f"p{k // persons}" for k in range(TABLE_LENGTH)]
    said = "is shared by data.rare=10 persons" if persons > 1 else "stands in data.rare=10 rows"
    with pytest.warns(RareWordsWarning, match=f"^column time says nothing: no word {re.escape(said)}, ") as warned:
        assert prepared(tmp_path, settings, **columns).preprocessing.columns["time"].width == 1
    (least,) = re.findall(r"set data\.rare=([0-9]+)$", str(warned[0].message))
    assert prepared(tmp_path, settings | {"rare": int(least)}, **columns).preprocessing.columns["time"].width >= 2


ODD_COLUMNS = {
    "thousands": ("thousands", GROUPED_CELLS, [float(cell.replace(",", "")) for cell in GROUPED_CELLS]),
    "decimal comma": (
        "decimal",
        [cell.replace(".", ",") for cell in PRICE_CELLS],
        [float(cell) for cell in PRICE_CELLS],
    ),
    "dollars": ("symbols", [f"${cell}" for cell in PRICE_CELLS], [float(cell) for cell in PRICE_CELLS]),
    "per cent": ("symbols", [f"{cell} %" for cell in PRICE_CELLS], [float(cell) for cell in PRICE_CELLS]),
    "one dash": ("missing_words", ["-", *PRICE_CELLS[1:]], [np.nan, *map(float, PRICE_CELLS[1:])]),
    "some unknown": (
        "missing_words",
        ["not asked"] * 30 + PRICE_CELLS[30:],
        [np.nan] * 30 + [*map(float, PRICE_CELLS[30:])],
    ),
}


@pytest.mark.parametrize("kind", ODD_COLUMNS)
def test_numbers_taken_for_words_are_refused_with_the_setting_that_reads_them(tmp_path: Path, kind: str) -> None:
    key, cells, numbers = ODD_COLUMNS[kind]
    line = refusal(tmp_path, price=cells)
    odd = next(k for k, cell in enumerate(cells) if Table(path="a", label="b").reading.number(cell) is None)
    assert line.startswith("column price ") and re.search(rf"rows {odd + 1}\b", line), line
    dataset = prepared(tmp_path, proposed(line, key) | {"missing": "impute"}, price=cells)
    column = dataset.preprocessing.columns["price"]
    assert column.width == 1
    expected = (np.where(np.isnan(numbers), column.fill, numbers) - column.center) / column.scale
    np.testing.assert_allclose(dataset.x[:, 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(dataset.preprocessing(tmp_path / "t.csv"), dataset.x)


def test_both_signs_of_another_language(tmp_path: Path) -> None:
    cells = [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in np.linspace(1, 90_000, TABLE_LENGTH)]
    line = refusal(tmp_path, price=cells)
    settings = proposed(line, "decimal") | proposed(line, "thousands")
    assert settings == {"decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    "cells",
    [
        [
            ("250.1", "401", "V57", "E878", "V12", "780", "8", "9", "11", "12", "13", "14", "15")[k % 13]
            for k in range(TABLE_LENGTH)
        ],
        [("0", "1", "2", "3+")[k % 4] for k in range(TABLE_LENGTH)],
        [("18-39", "40-64", "65+")[k % 3] for k in range(TABLE_LENGTH)],
        [f"{k % 20:03}" for k in range(TABLE_LENGTH)],
    ],
    ids=["diagnoses", "counts", "bands", "codes"],
)
def test_codes_and_bands_are_words(tmp_path: Path, cells: list[str]) -> None:
    dataset = prepared(tmp_path, {"rare": 1}, code=cells)
    assert dataset.preprocessing.columns["code"].width == len(set(cells))


def test_dates_are_refused_or_read(tmp_path: Path) -> None:
    days = [f"20{20 + k % 3}-0{1 + k % 9}-{1 + k % 28:02}" for k in range(TABLE_LENGTH)]
    line = refusal(tmp_path, born=days)
    assert proposed(line, "drop") == {"drop": ["born"]}
    dataset = prepared(tmp_path, proposed(line, "dates"), born=days)
    x, column = dataset.x[:, :21], dataset.preprocessing.columns["born"]
    stamps = np.array(days, dtype="datetime64[D]")
    np.testing.assert_allclose(x[:, 1] * column.scale + column.center, stamps.astype(int), atol=0.1)
    assert np.array_equal(x[:, 2:14].argmax(axis=1), stamps.astype("datetime64[M]").astype(int) % 12)
    assert np.array_equal(x[:, 14:].argmax(axis=1), (stamps.astype(int) + 3) % 7), "1 January 1970 was a Thursday"
    assert len(np.unique(x[:, 0])) == 3, "years"


MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DATE_CASES = {  # how a day is written, and whether that can be read
    "a zone": (lambda y, m, d: f"{y}-{m:02}-{d:02}T23:30:00Z", True),
    "an offset": (lambda y, m, d: f"{y}-{m:02}-{d:02} 00:30:00+02:00", True),
    "a month's name": (lambda y, m, d: f"{d} {MONTH_NAMES[m - 1]} {y}", True),
    "a month first": (lambda y, m, d: f"{MONTH_NAMES[m - 1]} {d}, {y}", True),
    "half days": (lambda y, m, d: f"{y}/{m}/{d} 11:59 PM", True),
    "digits alone": (lambda y, m, d: f"{y}{m:02}{d:02}", True),
    "two digits of a year": (lambda y, m, d: f"{d:02}/{m:02}/{y % 100:02}", False),
    "two days of a month": (lambda y, m, d: f"{m:02}/{m % 12 + 1:02}/{y} 1:05 am", False),
    "another language": (lambda y, m, d: f"{d}. {('Januar', 'März', 'Mai')[m % 3]} {y}", False),
    "a mail's": (lambda y, m, d: f"Mon, {d:02} {MONTH_NAMES[m - 1]} {y} 10:00:00 GMT", False),
}


@pytest.mark.parametrize("kind", DATE_CASES)
def test_dates_however_written_are_read_or_refused_by_name(tmp_path: Path, kind: str) -> None:
    write, is_read = DATE_CASES[kind]
    parts = [(2020 + k % 3, 1 + k % 12, 1 + k * 7 % 28) for k in range(TABLE_LENGTH)]
    cells = [write(*part) for part in parts]
    line = refusal(tmp_path, born=cells)
    assert "expected column born too, which holds dates such as" in line
    assert proposed(line, "drop") == {"drop": ["born"]}
    assert ("write them as 2020-04-30" in line) is not is_read
    if is_read:
        dataset = prepared(tmp_path, proposed(line, "dates"), born=cells)
        column, days = dataset.preprocessing.columns["born"], [f"{y}-{m:02}-{d:02}" for y, m, d in parts]
        expected = np.array(days, dtype="datetime64[D]").astype(int)
        np.testing.assert_allclose(dataset.x[:, 1] * column.scale + column.center, expected, atol=0.1)
        for frame in (pd.read_csv(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t.csv", dtype=str)):
            np.testing.assert_array_equal(dataset.preprocessing(frame), dataset.x)


@pytest.mark.parametrize(
    "words", [["192.168.1.1", "10.0.0.12"], ["1.10.3", "1.9.12"], ["30199999", "30191305"], ["May 5 oz 10", "Jan"]]
)
def test_other_words_are_no_dates(tmp_path: Path, words: list[str]) -> None:
    assert "born" in prepared(tmp_path, {}, born=words * (TABLE_LENGTH // 2)).preprocessing.columns


def test_dates_of_two_months_and_no_dates(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"^data\.dates=\[born\]: expected one reading of column born, 03/04/2020 may be a day of two months",
    ):
        prepared(tmp_path, {"dates": ["born"]}, born=["03/04/2020"] * TABLE_LENGTH)
    with pytest.raises(ValueError, match=r"^data\.dates=\[born\]: expected .* 'soon' in row 120; "):
        prepared(tmp_path, {"dates": ["born"]}, born=["30/04/2020"] * (TABLE_LENGTH - 1) + ["soon"])
    assert prepared(tmp_path, {"dates": ["born"]}, born=["30/04/2020", "03/04/2020"] * 60).shape == (22,)


def test_words_that_few_persons_share_become_other(tmp_path: Path) -> None:
    cities = ["Bern"] * 70 + ["Genf"] * 41 + ["Quellstadt"] * 6 + ["Wiesental"] * 3
    dataset = prepared(tmp_path, {}, city=cities)
    column = dataset.preprocessing.columns["city"]
    assert column.categories == ("Bern", "Genf", "other") and "Quellstadt" not in str(dataset.preprocessing.to_json())
    assert dataset.x[-1, :3].tolist() == [0, 0, 1]
    assert dataset.preprocessing({"city": ["Rom"], "amount": [0]})[0, :3].tolist() == [0, 0, 1]


def test_persons_are_counted_not_their_rows(tmp_path: Path) -> None:
    city = ["Quellstadt"] * 30 + ["Bern", "Genf"] * 45
    patient = ["p0"] * 30 + [f"p{k}" for k in range(1, 91)]
    dataset = prepared(tmp_path, {"person": "patient"}, city=city, patient=patient)
    assert "Quellstadt" not in dataset.preprocessing.columns["city"].categories


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop": ["agee"]}, r"^data\.drop=agee: expected a column of"),
        ({"drop": ["y"]}, r"^drop=\[y\]: expected y in one of"),
        ({"categorical": ["age"], "numeric": ["age"]}, r"^drop=\[\]: expected age in one of"),
        ({"drop": "age"}, r"^drop=age: expected a list"),
        ({"decimal": ",", "thousands": ","}, r"^thousands=,: expected another sign than decimal"),
        ({"decimal": "5"}, r"^decimal=5: expected"),
        ({"rare": 0}, r"^rare=0: expected an integer >= 1"),
        ({"schema": "s.yaml", "categorical": ["age"]}, r"^schema=s\.yaml: expected no other description of age"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, settings, age=AGE_CELLS)


def test_settings_of_the_command_are_those_of_the_table() -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF_FOLDER / "data" / "csv.yaml"))
    instance = instantiated("data", {**node, "path": "a.csv", "label": "y"}, Table)
    assert instance == Table(
        path="a.csv", label="y", slices=[], drop=[], categorical=[], numeric=[], dates=[], missing_words=[], symbols=[]
    )
