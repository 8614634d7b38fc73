"""A file is there whole or not at all, and what a killed process left behind goes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from palisade.commandline import one_line
from palisade.targets.files import (
    PART_PREFIX,
    creating,
    file_lock,
    naming,
    replacing,
    shared_lock,
    temporary_path,
    write,
    write_json,
)


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_ending_stays_for_those_who_look_at_it(tmp_path):
    with replacing(tmp_path / "a.npy") as temporary:
        np.save(temporary, np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    own = temporary_path(tmp_path / "other.txt")
    stale = own.with_name(own.name.replace(str(os.getpid()), dead.stdout.strip(), 1))
    parent = own.with_name(own.name.replace(str(os.getpid()), str(os.getppid()), 1))
    elsewhere = tmp_path / f"{PART_PREFIX}-{dead.stdout.strip()}-another_host-other.txt"
    for path in (own, stale, parent, elsewhere):
        path.write_text("half")
    write(tmp_path / "a.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", own.name, parent.name, elsewhere.name}


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), creating(tmp_path / "a") as temporary:
        (temporary / "card.json").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    left = temporary_path(tmp_path / "a")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    stale = left.with_name(left.name.replace(str(os.getpid()), dead.stdout.strip(), 1))
    stale.mkdir()
    (stale / "card.json").write_text("half")
    with creating(tmp_path / "a") as temporary:
        (temporary / "card.json").write_text("whole")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "card.json").read_text() == "whole"


@pytest.fixture
def no_room():
    """Files of this process cannot grow beyond 16 KiB."""
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "writes",
    [
        lambda path: path.write_bytes(bytes(20000)),
        lambda path: np.save(path, np.zeros(20000)),
    ],
    ids=["bytes", "array"],
)
def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, no_room, writes):
    path = tmp_path / "a.npy"
    write(path, "old")
    with pytest.raises(OSError) as full, replacing(path) as temporary:
        writes(temporary)
    assert one_line(full.value).startswith(f"{path}: ")
    assert one_line(full.value).endswith("; make room, and the same command goes on from there")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_where_no_file_is_named(tmp_path, no_room):
    with pytest.raises(OSError) as full:
        (tmp_path / "a").write_bytes(bytes(20000))
    assert full.value.filename is None
    assert one_line(full.value) == "File too large; make room, and the same command goes on from there"
    with pytest.raises(OSError) as full, naming(tmp_path):
        (tmp_path / "a").write_bytes(bytes(20000))
    assert one_line(full.value).startswith(f"{tmp_path}: File too large; make room")


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "none" / "a.txt", "")
    assert one_line(missing.value) == (
        f"{tmp_path}/none/a.txt: No such file or directory; choose another place, or change its permissions"
    )


def test_on_windows_attacks_on_arrays_run_and_training_is_refused_in_one_line():
    code = "import sys, palisade; palisade.LiRA, palisade.tpr_at_fpr"
    code += "; from filelock import ReadWriteLock; sys.platform = 'win32'"
    without = [sys.executable, "-c"]
    subprocess.run([*without, code], check=True)
    refused = subprocess.run([*without, f"{code}; import palisade.targets.run"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("ImportError: Palisade trains and evaluates on Linux and macOS")


def test_readers_share_a_lock_and_keep_out_who_wants_it_alone(tmp_path):
    with shared_lock(tmp_path / "l") as first, shared_lock(tmp_path / "l") as second:
        assert first and second
        with shared_lock(tmp_path / "l", alone=True) as alone:
            assert not alone
    with shared_lock(tmp_path / "l", alone=True) as alone, shared_lock(tmp_path / "l") as reader:
        assert alone and not reader


def test_lock_of_a_killed_process_is_free_again(tmp_path):
    code = f"""if True:
        import contextlib, os, pathlib, palisade.targets.files as files
        folder, locks = pathlib.Path({str(tmp_path)!r}), contextlib.ExitStack()
        assert locks.enter_context(files.file_lock(folder / "l", wait=False))
        assert locks.enter_context(files.shared_lock(folder / "r"))
        print("locked", flush=True); os.read(0, 1)"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with file_lock(tmp_path / "l", wait=False) as free, shared_lock(tmp_path / "r", alone=True) as alone:
            assert not free and not alone
        other.kill()
        other.wait()
    with file_lock(tmp_path / "l", wait=False) as free, shared_lock(tmp_path / "r", alone=True) as alone:
        assert free and alone
