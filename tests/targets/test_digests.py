"""Digests of weights: believed as long as the file is the one they were made of, never in the way otherwise."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.stored import answers, stamp
from palisade.targets import digests, files
from palisade.targets.digests import digest, digest_path, write_weights
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import Run
from palisade.train import composed, train_run

SMALL_RUN = ("data=digits", "network=linear", "trainer.epochs=3", "fleet.models=3", "fleet.workers=1", "secret=digests",
             "fleet.keep_checkpoints=1", "split.reference=0.1", "guard=memguard")  # fmt: skip
LOSS_PROTOCOL = AttackProtocol(attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}})


def blake2b(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "3.epoch5.safetensors"
    write_weights(path, b"weights")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Path(train_run(composed(f"runs={tmp_path_factory.mktemp('digests')}", *SMALL_RUN))["folder"]))


def test_a_digest_lies_beside_the_weights(weights: Path) -> None:
    assert {path.name for path in weights.parent.iterdir()} == {"3.epoch5.digest.json", "3.epoch5.safetensors"}
    status = weights.stat()
    content = {"size": 7, "mtime_ns": status.st_mtime_ns, "digest": hashlib.blake2b(b"weights").hexdigest()}
    assert json.loads(digest_path(weights).read_text()) == content
    assert digest(weights) == content["digest"]


def test_a_file_is_hashed_once(weights: Path) -> None:
    before, status = digest(weights), weights.stat()
    weights.write_bytes(b"damaged")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(weights) == before, "the file was read"


@pytest.mark.parametrize("content", [b"longer weights", b"changed"])
def test_a_changed_file_is_noticed(weights: Path, content: bytes) -> None:
    before, status = digest(weights), weights.stat()
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + (len(content) == 7)))
    assert digest(weights) == blake2b(weights) != before
    assert json.loads(digest_path(weights).read_text())["digest"] == blake2b(weights)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}", '{"size": 7}', "\0"])
def test_a_damaged_digest_is_made_anew(weights: Path, text: str) -> None:
    digest_path(weights).write_text(text)
    assert digest(weights) == blake2b(weights)
    assert json.loads(digest_path(weights).read_text())["digest"] == blake2b(weights)


def test_a_digest_of_no_text_is_made_anew(weights: Path) -> None:
    content = json.loads(digest_path(weights).read_text())
    digest_path(weights).write_text(json.dumps({**content, "digest": None}))
    assert digest(weights) == blake2b(weights)


def test_new_weights_never_have_the_digest_of_former_ones(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where writing ends between both files, and the clock of the file system stands still."""
    status = weights.stat()
    monkeypatch.setattr(digests, "_store", lambda *_: None)
    write_weights(weights, b"changed")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(weights) == hashlib.blake2b(b"changed").hexdigest()


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_where_nothing_can_be_written_files_are_hashed(
    weights: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(path: Path, content: Any) -> None:
        raise OSError(error, os.strerror(error), str(path))

    digest_path(weights).unlink()
    monkeypatch.setattr(digests, "write_json", refuse)
    assert digest(weights) == blake2b(weights) and not digest_path(weights).exists()
    write_weights(weights, b"other")
    assert digest(weights) == hashlib.blake2b(b"other").hexdigest()


def test_weights_that_are_not_there_have_none(weights: Path) -> None:
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        digest(weights)


def killed(path: Path, writes: int) -> None:
    """Dies by SIGKILL in the middle of one of the writes: that of the weights, or of their digest."""

    def die(source: Path, *, real: Callable[[Path], None]) -> None:
        nonlocal writes
        writes -= 1
        if not writes:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source)

    files._to_disk = partial(die, real=files._to_disk)
    write_weights(path, b"new weights")


@pytest.mark.parametrize("writes", [1, 2])
def test_a_killed_writer_leaves_nothing_half(weights: Path, writes: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed, args=(weights, writes))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert weights.read_bytes() == (b"weights" if writes == 1 else b"new weights")
    assert not digest_path(weights).exists() and digest(weights) == blake2b(weights)
    assert {path.name for path in weights.parent.iterdir()} == {weights.name, digest_path(weights).name}


def test_training_leaves_a_digest_of_each_file(trained: Run) -> None:
    paths = list(trained.folder.rglob("*.safetensors"))
    assert len(paths) == 3 * 3 and sum(path.parent.parent.name == "guards" for path in paths) == 3
    for path in paths:
        assert json.loads(digest_path(path).read_text())["digest"] == blake2b(path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights files that are read whole."""
    names: list[str] = []
    whole = Path.read_bytes

    def spy(path: Path) -> bytes:
        if path.suffix == ".safetensors":
            names.append(path.name)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", spy)
    return names


def test_signals_are_named_without_reading_weights(trained: Run, read: list[str]) -> None:
    for guard in guards_of(trained.folder):
        run = Run(trained.folder, guard)
        assert stamp(run) == stamp(run, [0, 1, 2]) and len({stamp(run, [k]) for k in range(3)}) == 3
    assert len({stamp(Run(trained.folder, guard), [0]) for guard in guards_of(trained.folder)}) == 2
    assert read == []


def test_the_name_of_one_models_signals_follows_from_its_own_files(trained: Run) -> None:
    run = Run(trained.folder, guards_of(trained.folder)[1])
    for path in (
        *(run.folder / "models").glob("1.*safetensors"),
        *(run.folder / "guards" / run.guard).glob("1.*safetensors"),
    ):
        before, content = [stamp(run, [k]) for k in range(3)], path.read_bytes()
        path.write_bytes(content[::-1])
        changed = [one != other for one, other in zip(before, [stamp(run, [k]) for k in range(3)], strict=True)]
        assert changed == [False, True, False]
        write_weights(path, content)
        assert [stamp(run, [k]) for k in range(3)] == before


def test_a_run_without_digests_is_evaluated_as_before(trained: Run, read: list[str]) -> None:
    named, outputs = stamp(trained), np.array(answers(trained, "test"))
    (before,) = results_of([trained], LOSS_PROTOCOL)
    for path in trained.folder.rglob("*.digest.json"):
        path.unlink()
    read.clear()
    assert stamp(trained) == named
    np.testing.assert_array_equal(answers(trained, "test"), outputs)
    (after,) = results_of([trained], LOSS_PROTOCOL)
    assert after.rows == before.rows
    assert sorted(read) == sorted(path.name for path in (trained.folder / "models").glob("*.safetensors"))


def test_digests_need_no_torch() -> None:
    code = "import sys, palisade.targets.digests; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
