"""Several workers before one Redis: an exact budget, nothing uncounted, and closed while Redis is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
from running_redis import DURABLE_OPTIONS, redis_server
from running_server import DIGIT_IMAGES, RunningServer, command, free_port, running, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here; .ci/run installs Debian's"),
]
ASKING_THREADS, KEY_BUDGET = 200, 100


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[tuple[int, list[subprocess.Popen[bytes]]]]:
    port, servers = free_port(), []
    servers.append(redis_server(port, tmp_path, *DURABLE_OPTIONS))
    yield port, servers
    for server in servers:
        server.kill()
        server.wait()


def ask_all(server: RunningServer, key: str, rounds: int = 1) -> set[int]:
    """Asks about 300 different records from many threads; returns those that were answered."""
    answered: set[int] = set()

    def ask(k: int) -> None:
        with suppress(requests.ConnectionError):
            if server.predict(DIGIT_IMAGES[k : k + 1], key).status_code == 200:
                answered.add(k)

    with ThreadPoolExecutor(ASKING_THREADS) as pool:
        list(pool.map(ask, [k for _ in range(rounds) for k in range(300)]))
    return answered


def test_a_budget_is_exact_for_all_workers_whatever_is_killed(digits_release, tmp_path: Path, redis_port) -> None:
    port, servers = redis_port
    folder, private = digits_release("none"), f"private={tmp_path}/private"
    key = command("keys=make", "key.name=alice", private, f"key.budget={KEY_BUDGET}", folder=folder).stdout.strip()
    store = ("store=redis", f"store.url=redis://127.0.0.1:{port}/0", "workers=2", "limits.rate=null")
    with running(folder, private, *store) as server:
        workers = workers_of(server)
        killer = threading.Timer(0.5, lambda: os.kill(workers[-1].pid, signal.SIGKILL))
        killer.start()
        answered = ask_all(server, key, rounds=3)
        assert len(answered) <= KEY_BUDGET
        time.sleep(3)
        answered |= ask_all(server, key)
        assert len(answered) == KEY_BUDGET, "the rest of the budget, and no more"

        servers[0].kill()
        servers[0].wait()
        began = time.monotonic()
        gone = server.predict(DIGIT_IMAGES[:1], key)
        assert gone.status_code == 503 and time.monotonic() - began <= 1 and int(gone.headers["Retry-After"]) >= 1
        health = [requests.get(f"{server.url}/v2/health/{name}", timeout=5).status_code for name in ("live", "ready")]
        assert health == [200, 503]
        servers.append(redis_server(port, tmp_path, *DURABLE_OPTIONS))
        end = time.monotonic() + 10
        while (again := ask_all(server, key)) != answered and time.monotonic() < end:
            time.sleep(0.2)
        assert again == answered, "it recovers by itself, with its counts"
        assert requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code == 200


def test_reloads_reach_all_workers_and_a_stop_breaks_no_answer(digits_release, tmp_path: Path, redis_port) -> None:
    port, _ = redis_port
    folder, private = digits_release("none"), f"private={tmp_path}/private"
    keys = {
        name: command("keys=make", f"key.name={name}", private, folder=folder).stdout.strip() for name in ("a", "b")
    }
    store = ("store=redis", f"store.url=redis://127.0.0.1:{port}/0", "workers=2", "limits.rate=null")

    def reload(server: RunningServer) -> None:
        until(lambda: len(workers_of(server)) == 2)
        for _ in range(5):
            server.signal(signal.SIGHUP)

    with running(folder, private, *store, at_start=reload) as server, ThreadPoolExecutor(8) as pool:
        until(lambda: server.printed().count("serving released") == 2)
        command("keys=revoke", "key.name=a", private, folder=folder)
        server.signal(signal.SIGHUP)
        until(lambda: server.printed().count("keys reread: 2") >= 3)
        revoked = {server.predict(DIGIT_IMAGES[:1], keys["a"]).status_code for _ in range(40)}
        statuses, broken = [], []

        def ask() -> None:
            while True:
                try:
                    statuses.append(len(server.predict(DIGIT_IMAGES[:50], keys["b"]).json()["predictions"]))
                except requests.ConnectionError as error:
                    broken.extend([str(error)] if "IncompleteRead" in str(error) else [])
                    return

        asking = [pool.submit(ask) for _ in range(8)]
        time.sleep(1)
        server.signal(signal.SIGTERM)
        server.process.join(20)
        for each in asking:
            each.result()
    assert revoked == {401} and "ended with" not in server.printed()
    assert server.process.exitcode == 0 and set(statuses) == {50} and not broken


def workers_of(server: RunningServer) -> list[psutil.Process]:
    """The workers of a server."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in children if "spawn_main" in str(process.cmdline())]


def test_a_server_that_is_killed_has_counted_all_it_answered(digits_release, tmp_path: Path) -> None:
    folder, private = digits_release("none"), f"private={tmp_path}"
    key = command("keys=make", "key.name=alice", private, f"key.budget={KEY_BUDGET}", folder=folder).stdout.strip()
    answered: set[int] = set()
    for seconds in (0.3, 0.2, None):
        with running(folder, private, "limits.rate=null") as server:
            if seconds is not None:
                threading.Timer(seconds, server.signal, [signal.SIGKILL]).start()
            answered |= ask_all(server, key)
            assert len(answered) <= KEY_BUDGET
    assert len(answered) <= KEY_BUDGET
    journal = (tmp_path / "released" / "counts.jsonl").read_text()
    assert journal.count('"new"') >= len(answered)
