import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from palisade.data.categorical import Categorical
from palisade.data.columns import Columns, Numeric, UnfittedColumns
from palisade.data.preprocessing import Scale, from_json

PEOPLE_TABLE = pd.DataFrame(
    {
        "age": [30.0, 50.0, np.nan, 70.0],
        "sex": ["female", "male", "female", None],
        "smoker": [0, 1, 1, 1],
        "code": [1.0, np.nan, 2.0, 2.0],
    }
)
UNFITTED_COLUMNS = UnfittedColumns(numeric=("age", "smoker"), categorical=("sex", "code"), missing="impute")


def again(preprocessing):
    return from_json(json.loads(json.dumps(preprocessing.to_json())))


def test_columns_by_hand():
    columns = UNFITTED_COLUMNS.fit(PEOPLE_TABLE, "private")
    z = np.sqrt(1.5)  # 20 / the deviation of 30, 50, 70
    expected = [[-z, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1], [z, 1, 0, 1, 0, 1]]
    np.testing.assert_allclose(columns(PEOPLE_TABLE), expected, atol=1e-6)
    assert columns(PEOPLE_TABLE).dtype == np.float32 and columns.shape == (6,)
    assert columns.columns["code"] == Categorical(categories=("1", "2"), fill="2")


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_columns_agree_with_scikit_learn_on_new_rows_and_after_json(seed):
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a": generator.normal(5, 3, 80),
            "b": generator.choice(["x", "y", "z"], 80),
            "c": generator.integers(-9, 9, 80),
        }
    )
    old, new = frame[:50], frame[50:].replace({"b": {"x": "never seen"}})
    columns = UnfittedColumns(numeric=("a", "c"), categorical=("b",)).fit(old, "reference")
    oracle = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(handle_unknown="ignore"), ["b"]), (StandardScaler(), ["c"])
    ).fit(old)
    np.testing.assert_allclose(columns(new), oracle.transform(new), atol=1e-5)
    assert np.array_equal(columns(new), again(columns)(new)) and again(columns) == columns


def test_a_missing_value_in_new_rows_is_filled_or_refused():
    row = pd.DataFrame({"age": [None], "sex": [None], "smoker": [None], "code": [None]})
    assert UNFITTED_COLUMNS.fit(PEOPLE_TABLE, "private")(row).tolist() == [[0, 1, 0, 1, 0, 1]]
    strict = UnfittedColumns(numeric=("smoker",), categorical=()).fit(PEOPLE_TABLE, "private")
    with pytest.raises(
        ValueError,
        match=r"^column smoker has 1 missing values; fill them, train with data.missing=impute, or",
    ):
        strict(row)


def test_a_constant_column_stays_finite():
    columns = UnfittedColumns(numeric=("a",), categorical=()).fit(pd.DataFrame({"a": [7, 7]}), "private")
    assert columns(pd.DataFrame({"a": [7, 8]})).tolist() == [[0], [1]]


def test_statistics_of_records_are_named():
    assert (
        "taken from the pool without noise, ε does not cover them"
        in UNFITTED_COLUMNS.fit(PEOPLE_TABLE, "private").not_covered
    )
    assert "taken from reference records without noise" in UNFITTED_COLUMNS.fit(PEOPLE_TABLE, "reference").not_covered
    assert Columns.from_json({"columns": {"age": None}}).not_covered is None
    assert Scale(shape=(3,)).not_covered is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"sex": ["male"]}, r"^rows have no column age; give age, sex$"),
        ({"age": ["old"], "sex": ["male"]}, r"^column age has 'old' among its numbers, in row 1; correct it$"),
        ({"age": [np.inf], "sex": ["male"]}, r"^column age has an infinite value; correct it$"),
        ({"age": [1], "sex": [None]}, r"^column sex has 1 missing values"),
    ],
)
def test_rows_that_do_not_fit(rows, message):
    columns = Columns(columns={"age": Numeric(), "sex": Categorical(categories=("male",))}, statistics="schema")
    with pytest.raises(ValueError, match=message):
        columns(pd.DataFrame(rows))


def test_columns_that_cannot_be_fitted():
    with pytest.raises(ValueError, match=r"^column a has no value to learn from; leave it out with data.drop"):
        UnfittedColumns(numeric=("a",), categorical=()).fit(pd.DataFrame({"a": [np.nan, np.nan]}), "private")
    names = pd.DataFrame({"name": [f"person {number}" for number in range(1001)]})
    with pytest.raises(
        ValueError, match=r"^column name has 1001 different words, at most 1000 are encoded; leave it out"
    ):
        UnfittedColumns(numeric=(), categorical=("name",)).fit(names, "private")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scale": 0}, "scale=0.0: expected a number > 0; "),
        ({"mean": 3}, "unexpected keyword"),
        ({"center": "far"}, "could not convert"),
        ({"categories": [True, False]}, "in quotes"),
        ({"categories": "female"}, "is a list of words"),
        ({"categories": ["a", "a"]}, r"categories=\[.a., .a.\]: expected different words"),
        ({"categories": ["a"], "fill": "b"}, "fill=b: expected one of a; "),
        (5, "not iterable"),
    ],
)
def test_a_wrong_description_names_its_column(entry, message):
    with pytest.raises(ValueError, match=rf"^column x: .*{message}.*use center, scale, fill or categories"):
        Columns.from_json({"columns": {"x": entry}})


def test_where_numbers_come_from_is_one_of_four():
    with pytest.raises(ValueError, match=r"^statistics=secret"):
        Columns.from_json({"columns": {"x": None}, "statistics": "secret"})


@pytest.mark.parametrize("content", [None, [], {}, {"columns": []}, {"columns": {}}])
def test_a_description_has_columns(content):
    with pytest.raises(ValueError, match=r"^there is no list of columns; write `columns:`"):
        Columns.from_json(content)


@pytest.mark.parametrize(
    "scale",
    [
        Scale(shape=(2, 3)),
        Scale(shape=(2, 3), factor=(1 / 3,)),
        Scale(shape=(6,), shift=(0.0, 1.0, 2.0, 3.0, 4.0, 0.1)),
        Scale(shape=(2, 3), shift=(0.0, 1.0, 2.0, 3.0, 4.0, 0.1), factor=(0.5,)),
    ],
)
def test_scale_is_affine_and_survives_json(scale):
    rows = np.random.default_rng(0).normal(size=(5, 6))
    expected = (rows - np.array(scale.shift)) * np.array(scale.factor)
    np.testing.assert_allclose(scale(rows), expected.reshape(-1, *scale.shape), rtol=1e-6, atol=1e-7)
    assert np.array_equal(scale(rows), again(scale)(rows)) and again(scale) == scale


def test_scale_takes_a_number_for_each_channel():
    scale = Scale(shape=(2, 1, 3), shift=(1.0, 2.0), factor=(0.5, 10.0))
    rows = np.arange(5000 * 6, dtype=np.uint16).reshape(-1, 2, 1, 3)
    expected = np.stack([(rows[:, 0] - 1.0) * 0.5, (rows[:, 1] - 2.0) * 10], axis=1)
    assert scale(rows).dtype == np.float32 and np.array_equal(scale(rows), expected)
    assert again(scale) == scale


def test_numbers_that_need_no_scaling_are_not_copied():
    rows = np.ones((4, 3), dtype=np.float32)
    assert np.shares_memory(Scale(shape=(3,))(rows), rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 4)), r"^rows have shape \(2, 4\) but the network expects \(records, 3\); reshape them$"),
        (np.zeros(3), r"^rows have shape \(3,\)"),
        (np.array([[0, np.nan, 0]]), r"^rows has NaN or infinite values \(float32\); remove or replace them$"),
        (np.where(np.arange(9000)[:, None] < 8999, [[0, 0, 0]], 1e39), r"^rows has NaN or infinite values"),
        (np.array([["a", "b", "c"]]), r"^rows has dtype <U1; convert it to numbers$"),
    ],
)
def test_scale_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        Scale(shape=(3,))(rows)


def test_wrong_cards():
    with pytest.raises(ValueError, match=r"^shift of 2 values: expected 1 or 3 for shape=\(3,\); "):
        Scale(shape=(3,), shift=(1, 2))
    with pytest.raises(ValueError, match=r"^factor of 3 values: expected 1 or 2 or 8 for shape=\(2, 4\); "):
        Scale(shape=(2, 4), factor=(1, 2, 3))
    with pytest.raises(ValueError, match=r"^preprocessing.kind=pickle"):
        from_json({"kind": "pickle"})
    with pytest.raises(ValueError, match=r"^preprocessing of kind scale is incomplete \('shift'\); write it afresh$"):
        from_json({"kind": "scale", "shape": [3]})
