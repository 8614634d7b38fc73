"""Inputs of an audit: files of labeled records, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.subjects.answers import AnsweredRecords, answered, check_alike, shared_rows
from palisade.evaluation.subjects.saved_records import enough, read

RECORD_LABELS = np.arange(20) % 3
RECORD_LOGITS = np.random.default_rng(0).normal(size=(20, 3))
RECORD_PROBABILITIES = np.exp(RECORD_LOGITS) / np.exp(RECORD_LOGITS).sum(axis=1, keepdims=True)
CUT_OUTPUTS = {"outputs": "probabilities"}


def saved(folder, **arrays):
    np.savez(folder / "in.npz", **arrays)
    return read("members", str(folder / "in.npz"))


def side(folder, grant=None, **arrays):
    return answered(saved(folder, **arrays), None, grant or Grant())


@pytest.mark.parametrize(
    ("name", "answers"),
    [("logits", RECORD_LOGITS), ("probabilities", RECORD_PROBABILITIES), ("predictions", RECORD_LOGITS.argmax(axis=1))],
)
def test_saved_answers_are_read(tmp_path, name, answers):
    records = side(tmp_path, **{name: answers}, labels=RECORD_LABELS)
    assert (records.level, len(records)) == (name, 20)
    np.testing.assert_array_equal(records.answers, answers)


def test_arrays_as_data_npz_names_them(tmp_path):
    records = saved(tmp_path, x=RECORD_LOGITS, y=RECORD_LABELS)
    np.testing.assert_array_equal(records.rows, RECORD_LOGITS)
    np.testing.assert_array_equal(records.numbered(None), RECORD_LABELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": RECORD_LOGITS}, "has no labels; save the true class"),
        ({"labels": RECORD_LABELS}, "holds no answers; save logits, probabilities or predictions"),
        (
            {"labels": RECORD_LABELS, "logits": RECORD_LOGITS, "predictions": RECORD_LABELS},
            "holds logits and predictions; save the one",
        ),
        (
            {"labels": RECORD_LABELS + 0.5, "logits": RECORD_LOGITS},
            "labels are float64 of shape .*; save one whole number",
        ),
        ({"labels": RECORD_LABELS, "logits": RECORD_LOGITS[:7]}, "there are 20 labels, save as many"),
        (
            {"labels": RECORD_LABELS, "logits": RECORD_LOGITS[:, :1]},
            "one number a record, and labels name 3 classes; save",
        ),
        ({"labels": RECORD_LABELS, "logits": RECORD_LOGITS[:, :, None]}, r"save \(records, classes\) numbers"),
        (
            {"labels": RECORD_LABELS, "logits": RECORD_LOGITS * [1, np.nan, 1]},
            "hold NaN or infinity; remove these records",
        ),
        (
            {"labels": RECORD_LABELS + 1, "logits": RECORD_LOGITS},
            r"labels=1\.\.3; they must be from 0 on and at most 2",
        ),
        ({"labels": RECORD_LABELS - 1, "predictions": RECORD_LABELS}, r"labels=-1\.\.1; they must be from 0 on$"),
        ({"labels": RECORD_LABELS, "predictions": RECORD_LOGITS}, r"save \(records,\) whole numbers"),
        ({"labels": RECORD_LABELS, "probabilities": RECORD_LOGITS}, "they lie in 0..1, or save them as logits"),
        (
            {"labels": RECORD_LABELS, "probabilities": RECORD_PROBABILITIES / 2},
            "of 20 records do not sum to 1, such as 0.5",
        ),
        ({"labels": RECORD_LABELS.astype(object), "logits": RECORD_LOGITS}, "reading them could run code"),
        ({"labels": RECORD_LABELS.astype(str), "logits": np.array(["a"] * 20)}, "logits are <U1"),
        (
            {"labels": np.array(["a", "b"] * 10), "logits": RECORD_LOGITS},
            "labels are words, and nothing says in which order",
        ),
        ({"labels": RECORD_LABELS, "features": RECORD_LABELS, "logits": RECORD_LOGITS}, r"save \(records, …\)"),
        (
            {"labels": RECORD_LABELS, "features": RECORD_LOGITS * np.inf, "logits": RECORD_LOGITS},
            "features hold NaN or infinity",
        ),
        (
            {"labels": RECORD_LABELS, "features": RECORD_LOGITS.astype(str), "logits": RECORD_LOGITS},
            "features are <U32; save numbers",
        ),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as error, np.errstate(invalid="ignore"):
        side(tmp_path, **arrays)
    assert "\n" not in str(error.value) and "in.npz" in str(error.value)


@pytest.mark.parametrize(
    ("cut", "grant"),
    [
        (RECORD_PROBABILITIES * (RECORD_LOGITS.max(axis=1, keepdims=True) == RECORD_LOGITS), {"top_k": 1}),
        (RECORD_PROBABILITIES.round(1), {"decimals": 1}),
    ],
)
def test_cut_probabilities_are_believed_if_somebody_says_how(tmp_path, cut, grant):
    arrays = {"probabilities": cut, "labels": RECORD_LABELS}
    with pytest.raises(ValueError, match=r"do not sum to 1.*threat\.top_k=3 or threat\.decimals=1"):
        side(tmp_path, **arrays)
    assert len(side(tmp_path, Grant(**CUT_OUTPUTS, **grant), **arrays)) == 20


def test_no_file_and_half_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"members=no\.npz"):
        read("members", "no.npz")
    with pytest.raises(ValueError, match=r"^members=~nobodyhere/in\.npz"):
        read("members", "~nobodyhere/in.npz")
    np.savez(tmp_path / "wrapped.npz", logits=RECORD_LOGITS, labels=RECORD_LABELS.astype(np.uint64) - np.uint64(10))
    with pytest.raises(ValueError, match=r"wrapped\.npz: label 1844\d{16} is no class; number the classes from 0"):
        read("members", str(tmp_path / "wrapped.npz"))
    np.savez(tmp_path / "in.npz", logits=RECORD_LOGITS, labels=RECORD_LABELS)
    (tmp_path / "half.npz").write_bytes((tmp_path / "in.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half\.npz cannot be read: .*; write it with numpy\.savez"):
        read("members", str(tmp_path / "half.npz"))


def test_too_few_records(tmp_path):
    with pytest.raises(ValueError, match="holds 3 records; give at least 10"):
        enough(saved(tmp_path, logits=RECORD_LOGITS[:3], labels=RECORD_LABELS[:3]))


def test_both_sides_come_from_one_model(tmp_path):
    one = side(tmp_path, logits=RECORD_LOGITS, labels=RECORD_LABELS)
    for other, message in (
        (
            side(tmp_path, predictions=RECORD_LABELS, labels=RECORD_LABELS),
            "holds predictions and .* logits; save the same of both",
        ),
        (
            side(tmp_path, logits=np.c_[RECORD_LOGITS, RECORD_LOGITS], labels=RECORD_LABELS),
            "has 6 classes and .* 3; both must come from one",
        ),
        (
            side(tmp_path, logits=RECORD_LOGITS, labels=RECORD_LABELS, features=RECORD_LOGITS),
            "only one of .* holds features",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_alike([one, other])
    wide = side(tmp_path, logits=RECORD_LOGITS, labels=RECORD_LABELS, features=RECORD_LOGITS)
    narrow = side(tmp_path, logits=RECORD_LOGITS, labels=RECORD_LABELS, features=RECORD_LOGITS[:, :2])
    with pytest.raises(ValueError, match=r"have shape \(2,\) and of .* \(3,\); save both as the model takes them"):
        check_alike([wide, narrow])


def test_tables_need_the_column_of_the_label(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("age,diagnosis\n40,ill\n50,well\n")
    records = read("records", str(path), "diagnosis")
    np.testing.assert_array_equal(records.numbered(("well", "ill")), [1, 0])
    assert list(records.rows) == ["age"]
    with pytest.raises(ValueError, match="label ill is no class; choose of a, b"):
        records.numbered(("a", "b"))
    with pytest.raises(ValueError, match="is a table; name the column of the true class with label=<column>"):
        read("records", str(path))
    with pytest.raises(ValueError, match=r"label=income: expected a column of .*; choose one of age, diagnosis"):
        read("records", str(path), "income")
    path.write_text("age,diagnosis\n40,\n")
    with pytest.raises(ValueError, match="diagnosis has no value in 1 rows"):
        read("records", str(path), "diagnosis")
    path.write_bytes(b"age,diagnosis\n40,\xff\n")
    with pytest.raises(ValueError, match="utf-8 is not how"):
        read("records", str(path), "diagnosis")


@pytest.mark.parametrize("known", ["features", "logits", "probabilities"])
def test_records_of_both_sides_are_detected_however_they_were_saved(known):
    def side(values, labels):
        answers, level = (labels, "predictions") if known == "features" else (values, known)
        features = values if known == "features" else None
        return AnsweredRecords(name="x", labels=labels, level=level, answers=answers, features=features)

    values = np.zeros((6, 2), dtype=np.float32)
    values[:, 1] = np.arange(1, 7) / 10
    labels = np.arange(6) % 2
    other = np.r_[-values.astype(np.float64)[:2], np.where(values == 0, -0.0, values)[2:].astype(np.float64)]
    assert shared_rows(side(values, labels), side(other, labels)) == 4
    assert shared_rows(side(values, labels), side(other, 1 - labels)) == 0


def test_answers_that_many_records_have_tell_no_records():
    def side(answers, level="probabilities"):
        labels = np.zeros(len(answers), dtype=np.int64)
        return AnsweredRecords(name="x", labels=labels, level=level, answers=answers)

    sure = np.array([[1.0, 0.0], [1 - 1e-9, 1e-9], [0.7, 0.3], [0.6, 0.4]])
    assert shared_rows(side(sure), side(sure)) == 2
    for level, answers in (("predictions", np.zeros(4, dtype=np.int64)), ("probabilities", sure[[0, 1, 2, 2, 3]])):
        assert shared_rows(side(answers, level), side(answers, level)) == 0


def test_copies_of_a_file_are_known(tmp_path):
    def file(**changes):
        return saved(
            tmp_path,
            **{"probabilities": RECORD_PROBABILITIES, "labels": RECORD_LABELS, "features": RECORD_LOGITS, **changes},
        )

    assert file().is_copy_of(file())
    for changes in (
        {"labels": RECORD_LABELS[::-1]},
        {"features": -RECORD_LOGITS},
        {"probabilities": RECORD_PROBABILITIES[::-1]},
    ):
        assert not file().is_copy_of(file(**changes))
    assert not file().is_copy_of(saved(tmp_path, features=RECORD_LOGITS, labels=RECORD_LABELS))
    (tmp_path / "in.csv").write_text("age,diagnosis\n40,ill\n,well\n")
    tables = [read("records", str(tmp_path / "in.csv"), "diagnosis") for _ in range(2)]
    assert tables[0].is_copy_of(tables[1]), "though a cell has no value"
    assert not tables[0].is_copy_of(file())
