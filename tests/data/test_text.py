import hashlib
import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest

from palisade.data import text
from palisade.data.dataset import prepare
from palisade.data.split import Roles
from palisade.data.text import SST2

SST2_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "sst2"
real = pytest.mark.skipif(not (SST2_FOLDER / "dev.tsv").is_file(), reason="dev.tsv is not under ../shared/data/sst2")
SMALL_FILES = {
    "train.tsv": b"sentence\tlabel\na fine film \t1\nawful \t0\n" + "no “wit” ,\x85only gags \t0\ngood \t1\n".encode(),
    "dev.tsv": b"sentence\tlabel\nit 's a charming journey . \t1\n",
}


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


@pytest.fixture
def small(monkeypatch):
    """A publication of five phrases instead."""
    monkeypatch.setattr(text, "SST2_CHECKSUMS", {name: md5(content) for name, content in SMALL_FILES.items()})


def check_small(records):
    assert records.rows.tolist() == [
        *("a fine film ", "awful ", "no “wit” ,\x85only gags ", "good "),
        "it 's a charming journey . ",
    ]
    assert records.labels.tolist() == [1, 0, 0, 1, 1] and records.classes == ("negative", "positive")
    assert records.published_test.tolist() == [4] and records.persons is None
    assert records.published == " ".join(map(md5, SMALL_FILES.values()))


@real
def test_the_published_files():
    records = SST2(root=str(SST2_FOLDER)).load()
    assert len(records.rows) == 67_349 + 872
    assert np.bincount(records.labels[:67_349]).tolist() == [29_780, 37_569]
    assert records.published_test.tolist() == list(range(67_349, 68_221))
    assert (records.rows[0], records.labels[0]) == ("hide new secretions from the parental units ", 0)
    assert (records.rows[-872], records.labels[-872]) == ("it 's a charming and often affecting journey . ", 1)
    words = np.count_nonzero(records.preprocessing(records.rows), axis=1)
    assert words.min() == 1 and words.max() == 56  # as the docstring says
    _, counts = np.unique([row.strip() for row in records.rows[:67_349]], return_counts=True)
    assert counts.max() == 2 and (counts == 2).sum() == 371


@pytest.mark.parametrize("pack", [None, "train.tsv", "dev.tsv"])
def test_files_in_a_folder_plain_or_compressed(small, tmp_path, pack):
    for name, content in SMALL_FILES.items():
        packed = name == pack
        (tmp_path / f"{name}{'.xz' if packed else ''}").write_bytes(lzma.compress(content) if packed else content)
    check_small(SST2(root=str(tmp_path)).load())


def test_download_once(small, publisher, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in {**SMALL_FILES, "original/rest.txt": b"other"}.items():
            packed.writestr(f"SST-2/{name}", content)
    (publisher.folder / "SST-2.zip").write_bytes(archive.getvalue())
    monkeypatch.setattr(text, "SST2_URL", f"{publisher.url}/SST-2.zip")
    monkeypatch.setattr(text, "SST2_ARCHIVE_CHECKSUM", md5(archive.getvalue()))
    check_small(SST2().load())
    (publisher.folder / "SST-2.zip").unlink()
    check_small(SST2().load())


def test_another_file_in_the_folder(tmp_path):
    (tmp_path / "train.tsv").write_bytes(SMALL_FILES["train.tsv"])
    with pytest.raises(ValueError, match=r"train.tsv has md5 .*, the published file has da409a0a9393…; delete it, and"):
        SST2(root=str(tmp_path)).load()


def test_wrong_settings_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"^length=0: "):
        SST2(root="nowhere", length=0).load()


@real
def test_ready_for_training_with_the_published_test_part():
    dataset = prepare(SST2(root=str(SST2_FOLDER), length=16, buckets=100), Roles(pool=2000, test="published"), seed=0)
    assert dataset.x.shape == (68_221, 16) and dataset.shape == (16,) and dataset.x.dtype == np.int64
    assert dataset.x.max() == 99 and dataset.preprocessing.not_covered is None
    assert len(dataset.split.pool) == 2000 and dataset.split.pool.max() < 67_349
    assert np.array_equal(dataset.split.test, np.arange(67_349, 68_221))


def test_phrases_as_documents_of_a_language_model(small, tmp_path):
    for name, content in SMALL_FILES.items():
        (tmp_path / name).write_bytes(content)
    records = SST2(root=str(tmp_path), tokens="bytes", length=12).load()
    assert records.labels is None and records.classes == () and len(records.rows) == 5
    assert records.preprocessing.vocabulary == 257
    assert records.preprocessing.decode(records.preprocessing.labels(records.rows)[0].tolist()) == b"a fine film "
    with pytest.raises(ValueError, match=r"^data.tokens=nowhere: expected bytes, bpe, or a folder with tokenizer.json"):
        SST2(root=str(tmp_path), tokens="nowhere").load()
