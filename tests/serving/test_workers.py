"""Several workers: what is wrong is said once before any of them starts, and a server that cannot start ends."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from running_server import DIGIT_IMAGES, command

from palisade.serving import workers
from palisade.serving.workers import supervise

SHARED_STORE = ("store=redis", "store.durable=false", "workers=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["domain.schema=schema.yaml"], "domain.schema=schema.yaml: expected values: alone at its top"),
        (["domain.schema=absent.yaml"], "domain.schema=absent.yaml is no file"),
        (["monitor=near_duplicates", "monitor.reference=few.npz"], "expected at least 50 records, not 20"),
        (["monitor=near_duplicates", "monitor.reference=few.npz", "monitor.count=0"], "monitor.count=0: expected"),
        (["network._target_=absent.Net"], "network._target_=absent.Net: cannot be imported"),
    ],
)
def test_what_is_wrong_ends_the_whole(
    digits_release, tmp_path: Path, redis_url: str, words: list[str], message: str
) -> None:
    folder = digits_release("none")
    (folder / "schema.yaml").write_text("columns: {age: {low: 1}}")
    np.savez(folder / "few.npz", features=DIGIT_IMAGES[:20])
    done = command(*SHARED_STORE, f"store.url={redis_url}", f"private={tmp_path}", *words, folder=folder)
    assert done.returncode == 2 and message in done.stderr and "worker" not in done.stderr, done.stderr


def refused(_: int, ready: Callable[[], None]) -> None:
    raise ValueError("port=1: expected another")


def killed(_: int, ready: Callable[[], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def late(folder: Path, number: int, ready: Callable[[], None]) -> None:
    """The first process dies at its start once, the second one ends the whole."""
    begun = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{begun}").touch()
    if number == 0 and begun == 0:
        raise ValueError("once")
    ready()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if number == 1:
        while not (folder / "0-1").exists():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize(("work", "reason"), [(refused, "port=1: expected another"), (killed, "exit code -9 before")])
def test_a_worker_that_dies_twice_at_its_start_ends_the_whole(
    monkeypatch: pytest.MonkeyPatch, own_signals: None, capfd: pytest.CaptureFixture[str], work: object, reason: str
) -> None:
    monkeypatch.setattr(workers, "PAUSE_SECONDS", 0.01)
    with pytest.raises(ValueError, match=f"workers=2: expected workers that start, and one ended twice: {reason}"):
        supervise(work, 2, socket.socket())
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_dies_once_is_replaced(
    monkeypatch: pytest.MonkeyPatch, own_signals: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "PAUSE_SECONDS", 0.01)
    supervise(partial(late, tmp_path), 2, socket.socket())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0"]


@pytest.fixture
def own_signals():
    """Signals as they were."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
