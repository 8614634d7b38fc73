"""Slices part the records by the words of a column, and decide nothing that a model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.data.arrays import Arrays
from palisade.data.slices import Slices
from palisade.data.table import Table


@pytest.fixture
def people(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": ["f", "m", "f", None] * 15, "code": ["007", "7", "1", "01"] * 15})
    frame["age"], frame["y"] = rng.permutation(60) * 1.5, ["no", "yes"] * 30
    frame.to_csv(tmp_path / "people.csv", index=False)
    return {"path": str(tmp_path / "people.csv"), "label": "y", "missing": "impute"}


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "mine.npz"
    rng = np.random.default_rng(0)
    slices = {"slice_ward": np.arange(40) % 3, "slice_sex": np.array(["f", "m"] * 20)}
    np.savez(path, x=rng.random((40, 2)), y=np.arange(40) % 2, slice_short=np.arange(39), **slices)
    return path


def test_words_are_those_of_the_file_and_a_missing_one_is_a_group(people: dict[str, Any]) -> None:
    slices = Table(**people, slices=["sex", "code"]).read_slices()
    groups = {name: inside.tolist() for name, inside in slices.groups(np.array([0, 1, 3, 4]))}
    assert groups == {
        "sex=f": [True, False, False, True], "sex=m": [False, True, False, False],
        "sex=missing": [False, False, True, False], "code=007": [True, False, False, True],
        "code=01": [False, False, True, False], "code=7": [False, True, False, False],
    }  # fmt: skip


def test_a_slice_stays_a_feature_and_leaves_the_records_as_they_are(people: dict[str, Any]) -> None:
    plain, sliced = Table(**people).load(), Table(**people, slices=["sex"]).load()
    assert "sex" in sliced.rows and sliced.fingerprint() == plain.fingerprint()


def test_arrays_name_their_groups(arrays: Path) -> None:
    source = Arrays(path=str(arrays), slices=["ward", "sex"])
    names = [name for name, _ in source.read_slices().groups(np.arange(40))]
    assert names == ["ward=0", "ward=1", "ward=2", "sex=f", "sex=m"]
    assert source.load().fingerprint() == Arrays(path=str(arrays)).load().fingerprint()


def test_a_folder_of_arrays_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((8, 2)))
    np.save(tmp_path / "y.npy", np.arange(8) % 2)
    np.save(tmp_path / "slice_ward.npy", np.array(["north", "south"] * 4))
    slices = Arrays(path=str(tmp_path), slices=["ward"]).read_slices()
    assert [name for name, _ in slices.groups(np.arange(8))] == ["ward=north", "ward=south"]


def test_slices_of_a_configuration(people: dict[str, Any]) -> None:
    node = {"_target_": "palisade.data.table.Table", **people, "slices": ["sex"]}
    assert list(Slices.of(node).words) == ["sex"] and list(Slices.of(node, ["code"]).words) == ["code"]
    assert Slices.of({"_target_": "palisade.data.bundled.Digits", "name": "digits"}).words == {}
    assert Slices.of(node).digest != Slices.of(node, ["code"]).digest


def test_what_cannot_be_a_slice(people: dict[str, Any], arrays: Path) -> None:
    refused = {
        "data.slices=age: expected a column of at most 20 different values, not 60; name one of bands": ["age"],
        "data.slices=sx: expected a column of": ["sx"],
        "slices=sex: expected a list": "sex",
        "slices=['sex', 'sex']: expected a list of different columns; ": ["sex", "sex"],
        "slices=5: expected a list": 5,
    }
    for message, slices in refused.items():
        with pytest.raises(ValueError) as error:
            Table(**people, slices=slices).load()  # type: ignore[arg-type]
        assert message in str(error.value)
    absent = {"data.slices=age: expected an array slice_age in ": "age"}
    for message, name in (absent | {"slice_short has shape (39,) and dtype int64; save (40,)": "short"}).items():
        with pytest.raises(ValueError) as error:
            Arrays(path=str(arrays), slices=[name]).load()
        assert message in str(error.value)
    with pytest.raises(ValueError, match=r"slices=ward"):
        Arrays(path=str(arrays), slices="ward")
