"""For every release and file: the path, a frame, an audit and the training see the same inputs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from palisade.data import preprocessing
from palisade.data.categorical import Categorical
from palisade.data.columns import Columns, Numeric, UnknownWordsWarning
from palisade.data.dataset import Dataset, prepare
from palisade.data.split import Roles
from palisade.data.table import Table
from palisade.evaluation.subjects.saved_records import read
from palisade.targets.release import Release

CELL_VALUES = {
    "ages": ["17", "23", "35", "61", "90"],
    "amounts": ["0.1", "-3.25", "1e3", "+7", "12.50"],
    "codes": ["001", "002", "010", "040"],
    "marks": ["1", "2", "3A", "4.50"],
    "words": ["Private", "Self emp", "None", "other", "B"],
    "flags": ["True", "False"],
    "shouts": ["TRUE", "false", "maybe"],
    "days": ["2020-01-31", "2020-02-29", "1999-12-01"],
}
MISSING_CELLS = ["", "?", "NA", "n/a"]
BLANK_FORMATS = ["{}", " {}", "{} ", "  {}"]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[str]]:
    """Columns of some kinds, with blanks and missing values, and labels."""
    rows = draw(st.integers(20, 40))
    kinds = draw(st.lists(st.sampled_from(list(CELL_VALUES)), min_size=1, max_size=4, unique=True))
    table = {}
    for kind in kinds:
        values = CELL_VALUES[kind] + (MISSING_CELLS if draw(st.booleans()) else [])
        cell = st.builds(str.format, st.sampled_from(BLANK_FORMATS), st.sampled_from(values))
        table[kind] = draw(st.lists(cell, min_size=rows, max_size=rows))
    return {**table, "y": [("no", "yes")[row % 2] for row in range(rows)]}


def release_of(dataset: Dataset) -> Release:
    """A release with this preprocessing, as it comes back from its card."""
    torch.manual_seed(0)
    network = nn.Linear(dataset.shape[0], len(dataset.classes))
    step = preprocessing.from_json(json.loads(json.dumps(dataset.preprocessing.to_json())))
    return Release(network, step, {"data": {"classes": list(dataset.classes)}})


@given(table=tables(), rare=st.sampled_from([1, 4]), by_schema=st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_every_reader_gives_one_encoding(
    tmp_path: Path, table: dict[str, list[str]], rare: int, by_schema: bool
) -> None:
    path = tmp_path / "t.csv"
    header, rows = ",".join(table), (",".join(row) for row in zip(*table.values(), strict=True))
    path.write_text("\n".join([header, *rows]) + "\n")
    if by_schema:
        known = {kind: _described(kind) for kind in table if kind != "y"}
        (tmp_path / "schema.json").write_text(json.dumps({"columns": known}))
    described: dict[str, Any] = {"missing_words": ["90", "B"]}
    described |= {"schema": str(tmp_path / "schema.json")} if by_schema else {"rare": rare}
    if not by_schema:
        described["dates"] = [kind for kind in ("days",) if kind in table]
        described["categorical"] = [kind for kind in ("marks",) if kind in table]
    source = Table(path=str(path), label="y", missing="impute", **described)
    try:
        dataset = prepare(source, Roles(), seed=0)
    except ValueError as error:
        assume("has no value to learn from" not in str(error))
        raise
    release = release_of(dataset)
    forms: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "frame": pd.read_csv(path),
        "frame of text": pd.read_csv(path, dtype=str, keep_default_na=False),
        "records": pd.read_csv(path).to_dict("records"),
        "lists": pd.read_csv(path).to_dict("list"),
        "audit": read("members", str(path), "y").rows,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordsWarning)
        right = release._logits(np.asarray(dataset.x))
        for form, form_rows in forms.items():
            inputs, _ = release.encode(form_rows)
            np.testing.assert_allclose(inputs, dataset.x, rtol=1e-6, atol=1e-6, err_msg=form)
            assert release.predict(form_rows) == [release.classes[k] for k in right.argmax(axis=1)], form


def _described(kind: str) -> dict[str, Any]:
    if kind in ("ages", "amounts"):
        return {"center": 10, "scale": 20, "fill": 3}
    if kind == "days":
        return {"date": "%Y-%m-%d", "center": 10_000, "scale": 400, "fill": 12_345}
    return {"categories": CELL_VALUES[kind][:-1], "fill": "None" if kind == "words" else CELL_VALUES[kind][0]}


def forms_of(path: Path) -> dict[str, Any]:
    """A file in each form that a release takes, as people read it."""
    frame = pd.read_csv(path)
    forms = {"path": path, "frame": frame, "records": frame.to_dict("records"), "lists": frame.to_dict("list")}
    return {**forms, "frame of text": pd.read_csv(path, dtype=str, keep_default_na=False)}


def written(path: Path, name: str, cells: list[str]) -> Path:
    """A table of one column and labels."""
    rows = [f'"{cell}",{("no", "yes")[k % 2]}' for k, cell in enumerate(cells)]
    path.write_text("\n".join([f"{name},y", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("signs", "cells", "able"),
    [
        ({"decimal": ",", "thousands": "."}, ["45.123", "1.500", "45.000", "2.250"], ("path", "frame of text")),
        ({"decimal": ",", "thousands": "."}, ["45.000", "1.000", "", "2.000"], ("path", "frame of text")),
        ({"decimal": ",", "thousands": "."}, ["45.123", "1,5", "7", "2.250,75"], None),
        ({"decimal": ","}, ["1,5", "2,25", "3", "4,0"], None),
        ({"decimal": ","}, ["1", "2", "3", ""], None),
        ({"thousands": ","}, ["1,500", "2,250.5", "3", "4"], None),
    ],
)
def test_numbers_that_pandas_reads_by_other_signs_are_refused(
    tmp_path: Path, signs: dict[str, str], cells: list[str], able: tuple[str, ...] | None
) -> None:
    path = written(tmp_path / "t.csv", "price", cells * 10)
    dataset = prepare(Table(path=path, label="y", missing="impute", **signs), Roles(), seed=0)
    release = release_of(dataset)
    for form, rows in forms_of(path).items():
        if able is None or form in able:
            np.testing.assert_allclose(release.encode(rows)[0], dataset.x, rtol=1e-6, err_msg=form)
        else:
            with pytest.raises(ValueError, match=r"^column price holds the number 45(\.123)?, .*dtype=str.* path$"):
                release.encode(rows)


@pytest.mark.parametrize("missing", ["impute", "error"])
@pytest.mark.parametrize("count", [1, 4, 30])
def test_none_is_encoded_alike_whether_it_is_rare_or_not(tmp_path: Path, count: int, missing: str) -> None:
    path = written(tmp_path / "t.csv", "test", ["None"] * count + ["Bern", "Genf", "Genf"] * 20)
    source = Table(path=path, label="y", missing=missing, rare=10)
    if count < 10 and missing == "error":
        with pytest.raises(ValueError, match=rf"^column test has {count} missing values, None among them; "):
            prepare(source, Roles(), seed=0)
        return
    dataset = prepare(source, Roles(), seed=0)
    release = release_of(dataset)
    assert ("None" in dataset.preprocessing.columns["test"].categories) is (count == 30)
    for form, rows in forms_of(path).items():
        np.testing.assert_array_equal(release.encode(rows)[0], dataset.x, err_msg=form)


@pytest.mark.parametrize("column", [Numeric(fill=0), Categorical(categories=("9007199254740993", "12"), fill="12")])
@pytest.mark.parametrize(
    "cell", [10**400, -(10**5000), 1e300, float(2**53 + 4)], ids=["10^400", "-10^5000", "1e300", "2^53"]
)
def test_numbers_beyond_floats_are_refused_with_the_name_of_the_column(column: Any, cell: Any) -> None:
    columns = Columns(columns={"size": column}, statistics="schema")
    if isinstance(column, Numeric) and cell == 2**53 + 4:
        assert columns({"size": [cell]}) == columns({"size": [str(2**53 + 4)]})
        return
    with pytest.raises(ValueError, match=r"^column size") as error:
        columns({"size": [cell]})
    assert "\n" not in str(error.value)


def test_a_row_of_a_list_that_lacks_a_column_is_refused_as_one_dict_is() -> None:
    columns = Columns(columns={"age": Numeric(fill=3), "dose": Numeric(fill=0)}, statistics="schema")
    full, partial = {"age": 1, "dose": 2, "note": "a"}, {"dose": 2}
    assert columns([full, {"age": 3, "dose": 4}]).tolist() == [[1, 2], [3, 4]]
    for rows in ([full, partial], [partial, full], [partial], partial):
        with pytest.raises(ValueError, match=r"^(rows have|one of the rows has) no column age; give age, dose$"):
            columns(rows)
