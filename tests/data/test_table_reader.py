"""Files of tables as people have them: one table, written in many ways, gives one data set."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.data.dataset import Dataset, prepare
from palisade.data.split import Roles
from palisade.data.table import Table
from palisade.data.table_reader import write_table

OWN_ROWS = pd.DataFrame({
    "Größe": [1.5 + k % 50 / 100 for k in range(90)],
    "visits": [k % 7 for k in range(90)],
    "city": ["Zürich" if k % 3 else "Łódź" for k in range(90)],
    "smoker": [bool(k % 2) for k in range(90)],
    "ill": ["yes" if k % 4 else "no" for k in range(90)],
})  # fmt: skip
PLAIN_TEXT = OWN_ROWS.to_csv(index=False)


def loaded(path: Path, **settings: Any) -> Dataset:
    return prepare(Table(path=str(path), label="ill", **settings), Roles(), seed=0)


def as_bytes(write: Callable[[io.BytesIO], Any]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


WRITTEN_WAYS: dict[str, tuple[str, Callable[[], bytes], dict[str, Any]]] = {
    "semicolons": ("p.csv", lambda: OWN_ROWS.to_csv(index=False, sep=";").encode(), {"separator": ";"}),
    "decimal commas": (
        "p.csv", lambda: OWN_ROWS.to_csv(index=False, sep=";", decimal=",").encode(),
        {"separator": ";", "decimal": ","},
    ),
    "tabs": ("p.tsv", lambda: OWN_ROWS.to_csv(index=False, sep="\t").encode(), {"separator": "tab"}),
    "bars": ("p.txt", lambda: OWN_ROWS.to_csv(index=False, sep="|").encode(), {"separator": "|"}),
    "UTF-16": ("p.csv", lambda: PLAIN_TEXT.encode("utf-16"), {"encoding": "utf-16"}),
    "cp1250": ("p.csv", lambda: PLAIN_TEXT.encode("cp1250"), {"encoding": "cp1250"}),
    "byte order mark": ("p.csv", lambda: PLAIN_TEXT.encode("utf-8-sig"), {}),
    "Windows line ends": ("p.csv", lambda: PLAIN_TEXT.replace("\n", "\r\n").encode(), {}),
    "no header": (
        "p.data", lambda: OWN_ROWS.to_csv(index=False, header=False).encode(), {"header": list(OWN_ROWS.columns)},
    ),
    "packed": ("p.csv.gz", lambda: gzip.compress(PLAIN_TEXT.encode()), {}),
    "Parquet": ("p.parquet", lambda: as_bytes(lambda to: OWN_ROWS.to_parquet(to, index=False)), {}),
    "packed Parquet": (
        "p.parquet.gz", lambda: gzip.compress(as_bytes(lambda to: OWN_ROWS.to_parquet(to, index=False))), {},
    ),
    "Feather": ("p.feather", lambda: as_bytes(lambda to: OWN_ROWS.to_feather(to)), {}),
    "Excel": ("p.xlsx", lambda: as_bytes(lambda to: OWN_ROWS.to_excel(to, index=False)), {}),
    "a DataFrame's own text": ("p.csv", lambda: write_table(OWN_ROWS).encode(), {}),
}  # fmt: skip


@pytest.mark.parametrize("way", WRITTEN_WAYS)
def test_one_table_written_in_many_ways_is_one_data_set(tmp_path: Path, way: str) -> None:
    for library, endings in {"pyarrow": ("Parquet", "Feather"), "openpyxl": ("Excel",)}.items():
        if way.endswith(endings):
            pytest.importorskip(library, reason=f"{library} is not installed")
    name, content, settings = WRITTEN_WAYS[way]
    (tmp_path / "plain.csv").write_text(PLAIN_TEXT, encoding="utf-8")
    (tmp_path / name).write_bytes(content())
    plain, other = loaded(tmp_path / "plain.csv"), loaded(tmp_path / name, **settings)
    np.testing.assert_array_equal(other.x, plain.x)
    np.testing.assert_array_equal(other.y, plain.y)
    assert other.classes == plain.classes
    assert other.preprocessing.columns == plain.preprocessing.columns  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (OWN_ROWS.to_csv(index=False, sep=";").encode(), "data.separator=';'"),
        (OWN_ROWS.to_csv(index=False, sep=";", decimal=",").encode(), "data.separator=';'"),
        (OWN_ROWS.to_csv(index=False, sep="\t").encode(), "data.separator=tab"),
        (PLAIN_TEXT.encode("utf-16"), "data.encoding=utf_16"),
        (PLAIN_TEXT.replace("Łódź", "Wien").encode("cp1252"), "data.encoding=cp1252"),
        (OWN_ROWS.to_csv(index=False, header=False).encode(), "data.header=false"),
    ],
    ids=["semicolons", "decimal commas", "tabs", "UTF-16", "cp1252", "no header"],
)
def test_a_file_that_is_written_otherwise_is_refused_with_the_setting_that_reads_it(
    tmp_path: Path, content: bytes, remedy: str
) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:
        loaded(tmp_path / "p.csv")
    line = str(error.value)
    assert line.startswith("data.path=") and remedy in line and "\n" not in line, line


def test_columns_without_a_header_have_numbers(tmp_path: Path) -> None:
    (tmp_path / "p.data").write_text(OWN_ROWS.to_csv(index=False, header=False), encoding="utf-8")
    dataset = prepare(Table(path=str(tmp_path / "p.data"), label="column_5", header=False), Roles(), seed=0)
    assert list(dataset.preprocessing.columns) == [f"column_{k}" for k in range(1, 5)]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"^data\.path=.*: expected 2 columns, as data\.header names, and there are 5"):
        loaded(tmp_path / "p.data", header=["Größe", "ill"])


def test_a_test_file_is_for_testing_alone(tmp_path: Path) -> None:
    for name, part in (("train.csv", OWN_ROWS[:60]), ("test.csv", OWN_ROWS[60:])):
        part.to_csv(tmp_path / name, index=False)
    whole = loaded(tmp_path / "train.csv", test=str(tmp_path / "test.csv"))
    assert whole.split.test.tolist() == list(range(60, 90))
    assert whole.split.pool.max() < 60
    alone = loaded(tmp_path / "train.csv")
    np.testing.assert_array_equal(alone.split.pool, whole.split.pool)
    np.testing.assert_array_equal(alone.x, whole.x[:60])
    everything = prepare(
        Table(path=str(tmp_path / "train.csv"), label="ill", test=str(tmp_path / "test.csv")), Roles(pool=1), seed=0
    )
    assert len(everything.split.pool) == 60


@pytest.mark.parametrize(
    ("settings", "roles", "message"),
    [
        ({"test": "train.csv"}, {}, r"^data\.test=.*: expected another file than data\.path; set split\.test=0\.1"),
        ({"test": "test.csv"}, {"test": 0.2}, r"^split\.test=0\.2: expected null beside data\.test"),
        ({"test": "test.csv", "person": "city"}, {}, r"^data\.test=.*: 2 of its persons are in data\.path too"),
        ({"test": "other.csv"}, {}, r"^data\.test=.*: expected the columns of data\.path, and visits is none; add"),
    ],
)
def test_a_test_file_that_is_none_is_refused(
    tmp_path: Path, settings: dict[str, str], roles: dict[str, float], message: str
) -> None:
    for name, part in (("train.csv", OWN_ROWS[:60]), ("test.csv", OWN_ROWS[60:])):
        part.to_csv(tmp_path / name, index=False)
    OWN_ROWS.drop(columns="visits").to_csv(tmp_path / "other.csv", index=False)
    settings = settings | {"test": str(tmp_path / settings["test"])}
    with pytest.raises(ValueError, match=message):
        prepare(Table(path=str(tmp_path / "train.csv"), label="ill", **settings), Roles(**roles), seed=0)


def test_many_columns_are_read_as_each_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(40, 300)).round(3), columns=[f"g{k}" for k in range(300)])
    wide["word"], wide["ill"] = ["a b"[k % 3] for k in range(40)], [k % 2 for k in range(40)]
    wide.loc[3, "g7"] = np.nan
    for columns in (list(wide), ["g7", "word", "ill"]):
        wide[columns].to_csv(tmp_path / f"{len(columns)}.csv", index=False)
    many, few = (loaded(tmp_path / f"{count}.csv", missing="impute", rare=1) for count in (302, 3))
    np.testing.assert_array_equal(many.x[:, [7, *range(300, many.x.shape[1])]], few.x)


def test_a_file_whose_library_is_absent_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.xlsx").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"expected the library that reads \.xlsx files .*palisade-privacy\[tables\]"):
        loaded(tmp_path / "p.xlsx")
