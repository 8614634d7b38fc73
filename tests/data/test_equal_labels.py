"""Labels that people would call the same are one class, or are shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from palisade.data.cells import Reading
from palisade.data.labels import classes_of, numbered
from palisade.data.table import Table


@pytest.mark.parametrize(
    ("words", "classes", "labels"),
    [
        (["1", "1.0", "0", "0.0", "1"], ("0", "1"), [1, 1, 0, 0, 1]),
        (["1.0", "0.0", "1.0"], ("0.0", "1.0"), [1, 0, 1]),
        (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
        (["True", "False", "1"], ("1", "False", "True"), [2, 1, 0]),
        (["+", "-", "C", "C++", "C#"], ("+", "-", "C", "C#", "C++"), [0, 1, 2, 4, 3]),
        (["not ill", "not  ill", "ill"], ("ill", "not ill"), [1, 1, 0]),
        (["<=50K", "<= 50K", ">50K"], ("<=50K", ">50K"), [0, 0, 1]),
        (["50%", "50 %", "10 %"], ("10 %", "50%"), [1, 1, 0]),
        (["caf\u00e9", "cafe\u0301", "yes\u200b", "yes"], ("café", "yes"), [0, 0, 1, 1]),
        (["-1", "1", "+1", "-1.0"], ("-1", "1"), [0, 1, 1, 0]),
        (["1.0", "10"], ("1.0", "10"), [0, 1]),
        (["2.5", "25", "25.0", "250"], ("2.5", "25", "250"), [0, 1, 1, 2]),
        (["A", "A-", "A+"], ("A", "A+", "A-"), [0, 2, 1]),
        (["1-5", "15", "1.5"], ("1-5", "1.5", "15"), [0, 2, 1]),
        (["1:5", "15", "5'", '5"'], ("15", "1:5", '5"', "5'"), [1, 0, 3, 2]),
    ],
)
def test_classes(words, classes, labels):
    names, numbers = classes_of("data.label=y", pd.Series(words))
    assert names == classes and numbers.tolist() == labels


def test_labels_that_differ_by_blanks_are_one_class(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,yes\n2,yes \n3, no\n4,no\n")
    records = Table(path=str(tmp_path / "t.csv"), label="y", rare=2).load()
    assert records.classes == ("no", "yes") and records.labels.tolist() == [1, 1, 0, 0]


def test_labels_are_numbers_as_the_table_writes_them():
    for words, reading in (
        (["1,0", "1", "0"], Reading(decimal=",")),
        (["1,000", "1000", "0"], Reading(thousands=",")),
        (["1.000", "1000", "0"], Reading(decimal=",", thousands=".")),
    ):
        names, numbers = classes_of("data.label=y", pd.Series(words), reading)
        assert len(names) == 2 and numbers.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "pair",
    [
        ("1-5", "1\u20135"),
        ("<=50K", "<=50K."),
        ("yes", "Yes"),
        ("no show", "no_show"),
        ("yes", "'yes'"),
        ("2.50;", "2.5"),
    ],
)
def test_labels_that_differ_by_case_or_signs_are_shown(pair):
    with pytest.raises(ValueError, match=r"^data\.label=y has classes ") as error:
        classes_of("data.label=y", pd.Series([*pair, "other"]))
    assert all(repr(word) in str(error.value) for word in pair)


def test_labels_of_another_file_are_known_as_words_or_numbers():
    assert numbered("members=x.csv", np.array(["1.0", "0", "01"]), ("0", "1")).tolist() == [1, 0, 1]
    assert numbered("members=x.csv", np.array(["not  ill", "ill"]), ("ill", "not ill")).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"^members=x\.csv: label <=50K\. is no class; choose of <=50K, >50K"):
        numbered("members=x.csv", np.array([">50K", "<=50K."]), ("<=50K", ">50K"))
