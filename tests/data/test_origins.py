"""Origins of records: the person's own word and the very line of the file, whatever stands between the lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.data.origins import UNKNOWN_ORIGINS, Origins

TABLE_SOURCE, ARRAYS_SOURCE = "palisade.data.table.Table", "palisade.data.arrays.Arrays"


def of_text(path: Path, text: str, **settings: Any) -> Origins:
    path.write_text(text, encoding="utf-8")
    return Origins.of({"_target_": TABLE_SOURCE, "path": str(path), "label": "ill", "rare": 1, **settings})


def test_each_record_has_the_line_that_an_editor_shows(tmp_path: Path) -> None:
    text = 'who,note,ill\nann,a,yes\n\nbob,"two\nlines",no\ncleo,c,yes\n'
    origins = of_text(tmp_path / "people.csv", text, person="who")
    assert [origins.person(k) for k in range(3)] == ["ann", "bob", "cleo"]
    lines = text.splitlines()
    assert [origins.line(k) for k in range(3)] == ["2", "4", "6"]
    assert [lines[int(origins.line(k)) - 1][:3] for k in range(3)] == ["ann", "bob", "cle"]
    assert origins.person(3) == origins.line(3) == "", "of a canary nobody knows"


def test_without_header_and_person_the_lines_remain(tmp_path: Path) -> None:
    origins = of_text(tmp_path / "people.csv", "1,a,yes\n2,b,no\n", header=["age", "note", "ill"])
    assert origins.persons is None and list(origins.lines or ()) == [1, 2] and origins.person(0) == ""


def test_records_of_another_file_have_no_line_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("who,ill\nzoe,no\n")
    origins = of_text(tmp_path / "people.csv", "who,ill\nann,yes\n", person="who", test=str(tmp_path / "test.csv"))
    assert (origins.person(1), origins.line(0), origins.line(1)) == ("zoe", "2", "")


@pytest.mark.parametrize(("ending", "lines"), [("xlsx", [2, 3]), ("parquet", None)])
def test_a_sheet_has_lines_and_columns_in_a_file_have_none(
    tmp_path: Path, ending: str, lines: list[int] | None
) -> None:
    pytest.importorskip({"xlsx": "openpyxl", "parquet": "pyarrow"}[ending])
    frame, path = pd.DataFrame({"age": [1, 2], "ill": ["yes", "no"]}), tmp_path / f"people.{ending}"
    frame.to_excel(path, index=False) if ending == "xlsx" else frame.to_parquet(path)
    assert Origins.of({"_target_": TABLE_SOURCE, "path": str(path), "label": "ill", "rare": 1}).lines == lines


def test_arrays_name_persons_or_nothing(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((2, 1)), "y": np.array([0, 1])}
    np.savez(tmp_path / "named.npz", **arrays, persons=np.array(["ann", "bob"]))
    np.savez(tmp_path / "plain.npz", **arrays)
    named, plain = (
        Origins.of({"_target_": ARRAYS_SOURCE, "path": str(tmp_path / f"{name}.npz")}) for name in ("named", "plain")
    )
    assert (named.person(1), named.line(1), plain.person(1)) == ("bob", "", "")
    assert Origins.of({"_target_": "palisade.data.bundled.Digits"}) is UNKNOWN_ORIGINS
