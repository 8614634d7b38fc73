"""Hostile files: whatever a file holds, it is read or refused in one line, and nothing in it runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refusal

from palisade.data.arrays import Arrays
from palisade.data.dataset import prepare
from palisade.data.files import opened
from palisade.data.images import MNIST
from palisade.data.location30 import ARCHIVE_FILE, Location30
from palisade.data.split import Roles
from palisade.data.table import Table
from palisade.data.text import SST2

pytestmark = pytest.mark.slow

FUZZ_SETTINGS = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
RECORD_INPUTS, RECORD_LABELS = np.random.default_rng(0).random((60, 4)), np.arange(60) % 3
CSV_ROWS = "".join(f"{k * k % 17},{k % 7},{'ab'[k % 2]}\n" for k in range(60))
CSV_TEXT = f"a,b,y\n{CSV_ROWS}"


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def lying(shape: Any, kind: str = "<f8", rest: bytes = b"") -> bytes:
    """An array whose header says what its author likes."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + rest


def outcome(load: Callable[[], object]) -> str | None:
    """The one line in which something is refused, None if it is read."""
    return refusal(load, longest=1500)


def read(source: Any) -> Callable[[], object]:
    return lambda: prepare(source, Roles(pool=0.5, reference=0.2), 0)


@FUZZ_SETTINGS
@given(st.data())
def test_damaged_archives(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    kind = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))
    content = bytearray(archive(kind, x=array(RECORD_INPUTS), y=array(RECORD_LABELS)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    outcome(read(Arrays(path=str(path))))


@FUZZ_SETTINGS
@given(
    st.sampled_from("?bBhHiIlLqQefdgFDSUVmMO"),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from(["C", "F"]),
    st.sampled_from(["x", "y", "persons"]),
)
def test_arrays_of_every_kind_and_shape(tmp_path_factory, kind, shape, order, key):
    path = tmp_path_factory.getbasetemp() / "kinds.npz"
    values = np.zeros((60, *shape) if len(shape) % 2 else shape, dtype=kind, order=order)
    np.savez(path, **({"x": RECORD_INPUTS, "y": RECORD_LABELS} | {key: values}))
    outcome(read(Arrays(path=str(path))))


@FUZZ_SETTINGS
@given(st.lists(st.lists(st.text(max_size=4) | st.floats().map(str) | st.integers().map(str), max_size=4), max_size=12))
def test_tables_of_anything(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    text = "\n".join(["a,b,y", *(",".join(row) for row in rows)])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for missing in ("error", "impute"):
        outcome(read(Table(path=str(path), label="y", missing=missing)))


@FUZZ_SETTINGS
@given(st.binary(max_size=300), st.sampled_from(["", ".gz", ".bz2", ".xz", ".zip", ".tar", ".zst"]), st.booleans())
def test_tables_of_bytes(tmp_path_factory, content, ending, packed):
    path = tmp_path_factory.getbasetemp() / f"bytes.csv{ending}"
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(ending, bytes)
    path.write_bytes(pack(CSV_TEXT.encode() + content) if packed else content)
    outcome(read(Table(path=str(path), label="y")))


@FUZZ_SETTINGS
@given(st.binary(max_size=200), st.sampled_from(["", ".xz"]))
def test_published_files_that_are_others(tmp_path_factory, content, ending):
    root = tmp_path_factory.getbasetemp()
    sources = [("train-images-idx3-ubyte.gz", MNIST), ("train.tsv", SST2), (ARCHIVE_FILE, Location30)]
    for name, source in sources:
        (root / f"{name}{ending}").write_bytes(content)
        assert "the published" in (line := outcome(source(root=str(root)).load) or "") or "is no .xz file" in line
        (root / f"{name}{ending}").unlink()


REFUSED_CASES = {
    "objects": (
        archive(x=lying((60,), "|O", pickle.dumps([1] * 60)), y=array(RECORD_LABELS)),
        "could run code; save numbers only",
    ),
    "persons as objects": (
        archive(x=array(RECORD_INPUTS), y=array(RECORD_LABELS), persons=lying((60,), "|O", b"")),
        "could run code",
    ),
    "terabytes": (
        archive(x=lying((10**12, 4)), y=array(RECORD_LABELS)),
        "x.npy names 32000000000000 bytes of numbers and holds 0",
    ),
    "beyond numbers": (archive(x=lying((10**30, 4)), y=array(RECORD_LABELS)), "of numbers and holds 0"),
    "below zero": (archive(x=lying((-5, 4)), y=array(RECORD_LABELS)), "x.npy names -160 bytes of numbers and holds 0"),
    "code as shape": (
        archive(x=lying("__import__('os').system('touch pwned')"), y=array(RECORD_LABELS)),
        "shape is not valid",
    ),
    "one array": (array(RECORD_INPUTS), "it is one array, not an archive"),
    "pickle": (pickle.dumps([1]), "it is no archive of arrays, or only part of one"),
    "nested header": (
        archive(x=b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000, y=array(RECORD_LABELS)),
        "cannot be",
    ),
}


@pytest.mark.parametrize("case", REFUSED_CASES)
def test_archives_that_mean_harm(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, message = REFUSED_CASES[case]
    Path("mine.npz").write_bytes(content)
    assert message in (outcome(read(Arrays(path="mine.npz"))) or "")
    assert not Path("pwned").exists()


def test_names_in_an_archive_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.npz").write_bytes(archive(**{"../../x": array(RECORD_INPUTS), "/y": array(RECORD_LABELS)}))
    assert "array x is missing; save x" in (outcome(read(Arrays(path="mine.npz"))) or "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize("ending", ["npz", "csv.gz", "csv.bz2", "csv.xz", "csv.zip"])
def test_bombs_are_refused_before_they_unfold(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("palisade.data.files.ALWAYS_ALLOWED_BYTES", 2**20)
    path, size = tmp_path / f"bomb.{ending}", 2**24
    if ending == "npz":
        path.write_bytes(
            archive(zipfile.ZIP_DEFLATED, x=lying((60, size // 60), "|u1", bytes(size)), y=array(RECORD_LABELS))
        )
        source: Any = Arrays(path=str(path))
    else:
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending[4:])
        content = CSV_TEXT.encode() + b"0" * size
        path.write_bytes(pack(content) if pack else archive(zipfile.ZIP_DEFLATED, bomb=content))
        source = Table(path=str(path), label="y")
    line = outcome(read(source)) or ""
    assert "over 200 times as many; if it is what you expect, decompress it yourself" in line
    assert path.stat().st_size < size / 200


def test_size_that_an_archive_declares_too_small_ends_it(tmp_path):
    content = archive(zipfile.ZIP_DEFLATED, x=lying((60, 400), "|u1", bytes(24000)), y=array(RECORD_LABELS))
    sizes = struct.pack("<I", len(lying((60, 400), "|u1", bytes(24000))))
    (tmp_path / "small.npz").write_bytes(content.replace(sizes, struct.pack("<I", 500)))
    assert "Bad CRC-32 for file 'x.npy'" in (outcome(read(Arrays(path=str(tmp_path / "small.npz")))) or "")


@pytest.mark.parametrize("kind", ["..", "/", "link", "hard link"])
def test_tar_that_leads_out_of_its_folder_is_never_opened(tmp_path, kind):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "victim").write_text("untouched")
    entry = tarfile.TarInfo({"..": "../victim", "/": str(tmp_path / "victim")}.get(kind, "bangkok"))
    entry.type = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}.get(kind, tarfile.REGTYPE)
    entry.linkname = str(tmp_path / "victim") if "link" in kind else ""
    with tarfile.open(root / ARCHIVE_FILE, "w:gz") as file:
        file.addfile(entry, io.BytesIO(b""))
    assert "the published file has" in (outcome(Location30(root=str(root)).load) or "")
    assert (tmp_path / "victim").read_text() == "untouched" and len(list(root.iterdir())) == 1


FILE_PLACES = [
    "a\0b",
    5,
    1.5,
    True,
    ["a"],
    {"a": 1},
    "a" * 300,
    "~nobody-at-all/x.npz",
    "loop",
    "pipe",
    "folder",
    "nowhere",
]


@pytest.mark.parametrize("place", FILE_PLACES, ids=lambda place: repr(place)[:20])
def test_places_that_hold_no_file(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for source in (Arrays, partial(Table, label="y")):
        assert outcome(lambda source=source: source(path=place).load())
    Path("fine.csv").write_text(CSV_TEXT)
    assert outcome(lambda: Table(path="fine.csv", label="y", schema=place).load())
    if not isinstance(place, str) or "\0" in place:
        for published in (SST2, MNIST, Location30):
            assert ": expected a " in (outcome(lambda published=published: published(root=place).load()) or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["mine.npz", "mine.csv"])
def test_file_that_may_not_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(CSV_TEXT.encode())
    (tmp_path / name).chmod(0)
    source = Arrays(path=str(tmp_path / name)) if name.endswith("npz") else Table(path=str(tmp_path / name), label="y")
    assert "ermission denied" in (outcome(source.load) or "")


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_compressed_tables_are_read(tmp_path, ending):
    path = tmp_path / f"fine.csv.{ending}"
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending)
    path.write_bytes(pack(CSV_TEXT.encode()) if pack else archive(fine=CSV_TEXT.encode()))
    with opened(path) as file:
        assert file.read() == CSV_TEXT.encode()
    assert outcome(read(Table(path=str(path), label="y"))) is None


@pytest.mark.parametrize("ending", ["tar", "zst", "7z", "zip"])
def test_other_archives_are_refused(tmp_path, ending):
    path = tmp_path / f"other.csv.{ending}"
    path.write_bytes(archive(a=b"1", b=b"2"))
    message = "pack exactly one" if ending == "zip" else "is an archive of another kind; unpack it, or use .gz, .bz2"
    assert message in (outcome(Table(path=str(path), label="y").load) or "")
