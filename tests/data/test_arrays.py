import numpy as np
import pytest

from palisade.data.arrays import Arrays
from palisade.data.dataset import prepare
from palisade.data.split import Roles

INPUT_ROWS = np.random.default_rng(0).normal(size=(40, 2, 3)).astype(np.float32)
ROW_LABELS = np.arange(40) % 4


def save(tmp_path, **arrays):
    np.savez(tmp_path / "my.npz", **arrays)
    return Arrays(path=str(tmp_path / "my.npz"))


def test_an_archive(tmp_path):
    records = save(
        tmp_path, x=INPUT_ROWS, y=ROW_LABELS.astype(np.uint8), persons=np.array([f"p{k // 2}" for k in range(40)])
    ).load()
    assert records.name == "my" and records.classes == ("0", "1", "2", "3") and records.published is None
    assert np.array_equal(records.preprocessing(records.rows), INPUT_ROWS)
    assert np.array_equal(records.labels, ROW_LABELS) and records.labels.dtype == np.int64
    assert len(np.unique(records.persons)) == 20 and (records.persons[::2] == records.persons[1::2]).all()


def test_a_folder_stays_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", INPUT_ROWS)
    np.save(tmp_path / "y.npy", ROW_LABELS)
    dataset = prepare(Arrays(path=str(tmp_path), name="mapped"), Roles(), seed=0)
    assert isinstance(dataset.x.base, np.ndarray) and not dataset.x.flags.owndata and not dataset.x.flags.writeable
    assert isinstance(root(dataset.x), np.memmap)
    assert np.array_equal(dataset.x, INPUT_ROWS) and dataset.name == "mapped"


def root(array):
    while not isinstance(array, np.memmap):
        array = array.base
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": None}, r"^data.path=.*: array y is missing; save x "),
        ({"x": INPUT_ROWS[:, 0, 0]}, r"x has shape \(40,\); save \(records, features\) or \(records, \.\.\.\)$"),
        ({"x": INPUT_ROWS[:0], "y": ROW_LABELS[:0]}, r"x has shape \(0, 2, 3\)"),
        (
            {"x": np.where(INPUT_ROWS > 1, np.nan, INPUT_ROWS)},
            r"x has NaN or infinite values \(float32\); remove or replace them$",
        ),
        ({"x": np.where(INPUT_ROWS > 1, -np.inf, INPUT_ROWS)}, r"x has NaN or infinite values"),
        ({"x": INPUT_ROWS.astype(str)}, r"x has dtype <U\d+; convert it to numbers$"),
        (
            {"x": INPUT_ROWS.astype(object)},
            r"cannot be read: it holds Python objects, and reading them could run code; save numb",
        ),
        ({"y": ROW_LABELS[:-1]}, r"y has shape \(39,\); x has 40 records, save \(40,\)$"),
        ({"y": ROW_LABELS[:, None]}, r"y has shape \(40, 1\)"),
        ({"y": ROW_LABELS.astype(float)}, r"y has dtype float64; labels are whole numbers, save y.astype\(int\)$"),
        (
            {"y": ROW_LABELS - 1},
            r"y has 4 labels from -1 to 2; they must be 0\.\.3, save numpy.unique\(y, return_inverse=True\)",
        ),
        ({"y": ROW_LABELS * 10**9}, r"y has 4 labels from 0 to 3000000000; they must be 0\.\.3"),
        ({"y": np.zeros(40, dtype=int)}, r"the only class is 0; add records of another class$"),
        ({"y": np.eye(40, dtype=int)[7]}, r"class 1 has 1 of 40 records and needs at least 2; merge it"),
        (
            {"persons": np.arange(39)},
            r"persons has shape \(39,\) and dtype int64; save \(40,\) whole numbers or words$",
        ),
        ({"persons": np.arange(40) / 2}, r"persons has shape \(40,\) and dtype float64"),
    ],
)
def test_errors(tmp_path, arrays, message):
    arrays = {name: array for name, array in ({"x": INPUT_ROWS, "y": ROW_LABELS} | arrays).items() if array is not None}
    with pytest.raises(ValueError, match=message) as error:
        save(tmp_path, **arrays).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("length", [0, 10, 700, -30])
def test_a_truncated_file(tmp_path, length, compressed):
    path = tmp_path / "cut.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=INPUT_ROWS, y=ROW_LABELS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"^data.path=.*cut.npz cannot be read: .*; ") as error:
        Arrays(path=str(path)).load()
    assert "\n" not in str(error.value)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data.path=nowhere.npz"):
        Arrays(path="nowhere.npz").load()
    np.save(tmp_path / "x.npy", INPUT_ROWS)
    with pytest.raises(ValueError, match=r"cannot be read: it is one array, not an archive; write it afresh with"):
        Arrays(path=str(tmp_path / "x.npy")).load()
    with pytest.raises(ValueError, match=r"^data.path=.*: array y is missing; save"):
        Arrays(path=str(tmp_path)).load()


def test_a_name_is_a_folder_name(tmp_path):
    save(tmp_path, x=INPUT_ROWS, y=ROW_LABELS)
    with pytest.raises(ValueError, match=r"^data.name=../up"):
        Arrays(path=str(tmp_path / "my.npz"), name="../up").load()
