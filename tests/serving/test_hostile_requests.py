"""Malformed bodies, slow sockets and floods: refused in one line, in bounded memory, and nobody else waits."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from running_server import DIGIT_IMAGES, RunningServer, command, running

LOUD_RATE = 2
"""Records a second that a flood is held to."""
NO_LIMITS = ("limits.rate=null", "limits.day=null", "limits.budget=null")
ZERO_ROW = [0.0] * 64
ZERO_TENSOR = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": ZERO_ROW}


def malformed_bodies() -> list[tuple[str, bytes]]:
    """Forty kinds of bodies, each for `:predict` or `/infer`."""
    plain: list[Any] = [
        [],
        1,
        None,
        {},
        {"instances": []},
        {"instances": 1},
        {"instances": {"a": 1}},
        {"instances": [[]]},
        {"instances": [ZERO_ROW, ZERO_ROW[:-1]]},
        {"instances": [ZERO_ROW[:-1]]},
        {"instances": [[ZERO_ROW]]},
        {"instances": [*ZERO_ROW]},
        {"instances": [["1"] * 64]},
        {"instances": [[None] * 64]},
        {"instances": [[[0.0] * 8] * 7]},
        {"instances": [[1e39] * 64]},
        {"instances": [ZERO_ROW] * 257},
        {"instances": [{"a": 1}]},
        {"instances": ["text"]},
    ]
    tensors: list[Any] = [
        {},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": []},
        {"inputs": [{**ZERO_TENSOR, "shape": [2, 64]}]},
        {"inputs": [{**ZERO_TENSOR, "shape": [1, 63]}]},
        {"inputs": [{**ZERO_TENSOR, "shape": [-1, 64]}]},
        {"inputs": [{**ZERO_TENSOR, "shape": [2**62, 2**62]}]},
        {"inputs": [{**ZERO_TENSOR, "shape": "1"}]},
        {"inputs": [{**ZERO_TENSOR, "shape": [True, 64]}]},
        {"inputs": [{**ZERO_TENSOR, "shape": [10**6, 64]}]},
        {"inputs": [ZERO_TENSOR, ZERO_TENSOR]},
        {"inputs": [{**ZERO_TENSOR, "name": "other"}]},
        {"inputs": [{**ZERO_TENSOR, "name": [1]}]},
        {"inputs": [{**ZERO_TENSOR, "datatype": "BYTES"}]},
        {"inputs": [{**ZERO_TENSOR, "datatype": {}}]},
        {"inputs": [{**ZERO_TENSOR, "data": [[0.0] * 63]}]},
        {"inputs": [{**ZERO_TENSOR, "data": [["a"] * 64]}]},
        {"inputs": [{**ZERO_TENSOR, "data": None}]},
        {"inputs": [{**ZERO_TENSOR, "data": [[[[[[[[[[0.0] * 64]]]]]]]]]}]},
    ]
    rows = json.dumps(ZERO_ROW).encode()
    raw = [
        b"", b"{", b"nonsense", b"true", b'{"instances": [' + rows.replace(b"0.0", b"NaN", 1) + b"]}",
        b'{"instances": [' + rows.replace(b"0.0", b"1e999", 1) + b"]}", b"[" * 10**5, b'{"instances":' * 10**5,
        b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff\xfe", b'{"instances": ["\xff"]}', b'{"instances": ["\\ud800"]}',
        b'{"instances": [' + rows + b'], "instances": [' + rows + b"]}", b'{"instances": [' + rows + b"]} x",
        b'{"instances": [' + b"[]," * 300_000 + b"[]]}", b'{"instances": [' + b'{},' * 300_000 + b"{}]}",
        b'{"instances": [[' + b"0," * 500_000 + b"0]]}", b" " * (2**20 + 1), b'"' + b"a" * 2**20, b"\0" * 100,
        b'{"instances": [{"a:b": 1, "a:b": 2}]}',
    ]  # fmt: skip
    bodies = [(":predict", json.dumps(each).encode()) for each in plain]
    bodies += [("/infer", json.dumps(each).encode()) for each in tensors]
    return bodies + [(action, each) for each in raw for action in (":predict", "/infer")]


def test_malformed_bodies_are_refused_in_one_line_and_bounded_memory(digits_release, tmp_path: Path) -> None:
    bodies = malformed_bodies()
    bodies += [(action, body[: len(body) * part // 7]) for action, body in bodies[:40] for part in (3, 5, 6)]
    assert len(bodies) >= 200
    with running(digits_release("none"), f"private={tmp_path}", *NO_LIMITS) as server:
        assert server.predict(DIGIT_IMAGES[:200]).status_code == 200
        assert server.post(*bodies[0]).status_code == 400
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        for action, body in bodies:
            refused = server.post(action, body)
            assert 400 <= refused.status_code < 500, (action, body[:80])
            (reason,) = refused.json().values()
            assert "\n" not in reason and len(reason) < 400 and "Traceback" not in reason
        bomb = gzip.compress(b"0" * 10**8)
        packed = requests.post(
            f"{server.url}/v1/models/released:predict", data=bomb, headers={"Content-Encoding": "gzip"}, timeout=20
        )
        assert packed.status_code == 415
        grown = process.memory_info().rss - before
        assert server.predict(DIGIT_IMAGES[:1]).status_code == 200
    assert grown <= 20 * 2**20, f"{grown / 2**20:.0f} MB"
    assert "error" not in server.printed() and "Traceback" not in server.printed()


def test_a_claimed_length_takes_no_memory_and_long_bodies_are_not_read(digits_release, tmp_path: Path) -> None:
    with running(digits_release("none"), f"private={tmp_path}") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /v1/models/released:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n"
            )
            client.settimeout(5)
            assert b" 413 " in client.recv(1000)
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /v1/models/released:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            client.settimeout(10)
            answer = b""
            try:
                for _ in range(100):
                    client.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            except OSError:
                pass
            with contextlib.suppress(OSError):
                answer = client.recv(1000)
            assert b" 413 " in answer or answer == b""


def spoken(server: RunningServer, *requests: bytes) -> bytes:
    """All that a server says to bytes, until it closes the connection or says nothing for a second."""
    host, port = server.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(1)
        with contextlib.suppress(OSError):
            client.sendall(b"".join(requests))
            while piece := client.recv(100_000):
                said += piece
    return said


def posted(path: str, body: bytes, *headers: str, method: str = "POST", length: bool = True) -> bytes:
    own = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        *headers,
        *([f"Content-Length: {len(body)}"] if length else []),
    ]
    return "\r\n".join([*own, "", ""]).encode("latin-1") + body


def test_what_no_library_sends_is_answered_in_order_or_refused(digits_release, tmp_path: Path) -> None:
    path, chunked = "/v1/models/released:predict", "Transfer-Encoding: chunked"
    body = json.dumps({"instances": DIGIT_IMAGES[:1].tolist()}).encode()
    ask = posted(path, body)
    odd: dict[str, tuple[bytes, int]] = {
        "header of 1 MB": (posted(path, body, "X-A: " + "a" * 2**20), 431),
        "20,000 headers": (posted(path, body, *(f"X-{k}: a" for k in range(20_000))), 431),
        "zero in a header": (posted(path, body, "Authorization: Bearer a\0b"), 400),
        "two lengths": (posted(path, body, "Content-Length: 3"), 400),
        "length and chunks": (posted(path, body, chunked), 408),
        "broken chunks": (posted(path, b"zz\r\n", chunked, length=False), 408),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, 400),
        "HEAD": (posted(path, b"", method="HEAD"), 405),
        "OPTIONS": (posted(path, b"", method="OPTIONS"), 405),
        "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        "another folder": (posted("/v1/models/%2e%2e%2freleased:predict", body), 404),
        "slash": (posted("/card/", b"", "Host: evil.example", method="GET"), 404),
        "binary tensors": (posted("/v2/models/released/infer", body, "Inference-Header-Content-Length: 9"), 415),
    }
    with running(digits_release("none"), f"private={tmp_path}", *NO_LIMITS) as server:
        assert spoken(server, ask, ask, ask).count(b"HTTP/1.1 200 OK") == 3, "pipelined"
        whole = posted(path, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), chunked, length=False)
        assert spoken(server, whole).startswith(b"HTTP/1.1 200 OK")
        for name, (request, status) in odd.items():
            said = spoken(server, request)
            assert said.startswith(b"HTTP/1.1 %d " % status) and said.count(b"HTTP/1.1") == 1, (name, said[:200])
            assert b"evil" not in said and b"Traceback" not in said
        assert b"allow: POST" in spoken(server, odd["OPTIONS"][0])
        assert server.predict(DIGIT_IMAGES[:1]).status_code == 200
    assert "error" not in server.printed()


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"datatype": "FP16"}, {}, "expected a datatype of numbers"),
        ({"datatype": "INT8", "data": [1e30] * 64}, {}, "expected numbers of INT8"),
        ({"datatype": "UINT8", "data": [-1] * 64}, {}, "expected numbers of UINT8"),
        ({"datatype": "BOOL", "data": [0.5] * 64}, {}, "expected numbers of BOOL"),
        ({"data": None, "parameters": {"binary_data_size": 256}}, {}, "expected 64 values"),
        ({}, {"outputs": [{"name": "logits"}]}, "outputs: expected probabilities alone"),
        ({}, {"outputs": 1}, "outputs: expected probabilities alone"),
    ],
)
def test_tensors_are_what_they_say(
    plain_server: RunningServer, change: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    refused = plain_server.post("/infer", {"inputs": [{**ZERO_TENSOR, **change}], **more})
    assert refused.status_code == 400 and words in refused.json()["error"], refused.text
    whole = {**ZERO_TENSOR, "datatype": "UINT8"}
    for action in ("/infer", "/versions/1/infer"):
        answer = plain_server.post(action, {"inputs": [whole], "outputs": [{"name": "probabilities"}]})
        assert answer.status_code == 200


@pytest.fixture(scope="module")
def plain_server(digits_release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running(digits_release("none"), f"private={tmp_path_factory.mktemp('private')}", *NO_LIMITS) as server:
        yield server


@pytest.mark.slow
def test_slow_sockets_are_closed_and_hold_nobody_up(digits_release, tmp_path: Path) -> None:
    with running(digits_release("none"), f"private={tmp_path}") as server:
        host, port = server.url.removeprefix("http://").split(":")
        starts = (
            b"GET / HT", b"", b"GET /card HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/models/released:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
        )  # fmt: skip
        sockets = [socket.create_connection((host, int(port))) for _ in range(200)]
        for place, each in enumerate(sockets):
            each.sendall(starts[place % 4])
        started, waits, is_open = time.monotonic(), [], set(range(200))
        session = requests.Session()
        while is_open and time.monotonic() - started < 12:
            for place in list(is_open):
                each = sockets[place]
                each.settimeout(0.001)
                try:
                    if place % 4 == 3:
                        each.send(b" ")  # one letter now and then
                    if not each.recv(100_000):
                        is_open.discard(place)
                except TimeoutError:
                    pass
                except OSError:
                    is_open.discard(place)
            began = time.perf_counter()
            assert session.get(f"{server.url}/v2/health/live", timeout=5).ok
            waits.append(time.perf_counter() - began)
        took = time.monotonic() - started
    assert not is_open and took <= 10, (len(is_open), took)
    assert np.quantile(waits, 0.99) <= 0.1


def test_a_stop_under_load_breaks_no_answer(digits_release, tmp_path: Path) -> None:
    with running(digits_release("none"), f"private={tmp_path}", *NO_LIMITS) as server:
        ended, broken, whole = threading.Event(), [], []

        def ask() -> None:
            session = requests.Session()
            while not ended.is_set():
                try:
                    done = session.post(
                        f"{server.url}/v1/models/released:predict",
                        json={"instances": DIGIT_IMAGES[:50].tolist()}, timeout=20,
                    )  # fmt: skip
                    whole.append(len(done.json()["predictions"]) == 50)
                except requests.ConnectionError as error:
                    if re.search("IncompleteRead|Broken", str(error)):
                        broken.append(str(error))
                    return

        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(ask)
            time.sleep(1)
            server.signal(signal.SIGTERM)
            server.process.join(20)
            ended.set()
    assert server.process.exitcode == 0 and len(whole) > 8 and all(whole) and not broken


@pytest.mark.slow
def test_a_flood_is_held_to_the_rate_and_others_hardly_wait(digits_release, tmp_path: Path) -> None:
    folder, private = digits_release("none"), f"private={tmp_path}"
    keys = {
        name: command("keys=make", f"key.name={name}", private, f"key.rate={rate}", folder=folder).stdout.strip()
        for name, rate in (("loud", LOUD_RATE), ("calm", 100))
    }
    with running(folder, private, "limits.budget=null") as server:

        def calm(count: int) -> float:
            waits = []
            for k in range(count):
                began = time.perf_counter()
                assert server.predict(DIGIT_IMAGES[k : k + 1], keys["calm"]).status_code == 200
                waits.append(time.perf_counter() - began)
                time.sleep(0.06)
            return float(np.quantile(waits, 0.99))

        alone = calm(100)
        statuses: list[tuple[float, int, str | None]] = []
        ended, started = threading.Event(), time.monotonic()

        def flood() -> None:
            session = requests.Session()
            while not ended.wait(0.05):  # few threads, which share this process with the calm client
                done = session.post(
                    f"{server.url}/v1/models/released:predict", json={"instances": DIGIT_IMAGES[:1].tolist()},
                    headers={"Authorization": f"Bearer {keys['loud']}"}, timeout=20,
                )  # fmt: skip
                statuses.append((time.monotonic() - started, done.status_code, done.headers.get("Retry-After")))

        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(flood)
            beside = calm(300)
            ended.set()
        time.sleep(1)
        later = server.predict(DIGIT_IMAGES[:1], keys["loud"])
    last = statuses[-1][0]
    accepted = sum(status == 200 for second, status, _ in statuses if second > 1)
    assert {status for _, status, _ in statuses} == {200, 429}
    assert all(wait is not None and int(wait) >= 1 for _, status, wait in statuses if status == 429)
    assert len(statuses) / last > 20 * LOUD_RATE, "requests offered"
    assert accepted == pytest.approx(LOUD_RATE * (last - 1), rel=0.05, abs=1)
    assert later.status_code == 200, "after the seconds that Retry-After named"
    assert beside <= 2 * alone + 0.02, (beside, alone)


def test_nothing_private_stands_anywhere(digits_release, tmp_path: Path) -> None:
    folder, private = digits_release("none"), f"private={tmp_path}"
    key = command("keys=make", "key.name=alice", private, "key.budget=3", folder=folder).stdout.strip()
    rows = (DIGIT_IMAGES[:5] + 0.8125).tolist()  # as no other number here
    with running(folder, private) as server:
        answers = [server.predict(rows[:3], key), server.predict(rows, key), server.predict(rows, key + "x")]
        answers.append(server.post(":predict", json.dumps({"instances": [["0.8125"] * 64]}).encode(), key))
        metrics = requests.get(server.metrics_url, timeout=5).text
        card = requests.get(f"{server.url}/card", timeout=5).text
        listed = subprocess_list(server)
    assert [each.status_code for each in answers] == [200, 403, 401, 400]
    journal = (tmp_path / "released" / "counts.jsonl").read_text()
    digests = re.findall(r'"([0-9a-f]{32})"', journal)
    (entry,) = json.loads((tmp_path / "released" / "keys.json").read_text())["keys"]
    assert len(digests) == 3
    everything = "".join([server.printed(), metrics, card, listed, *(each.text for each in answers[1:])])
    for private_text in (key, key[9:], entry["sha256"], ".8125", *digests):
        assert private_text not in everything
    assert 'palisade_requests_total{client="alice",status="403"} 1.0' in metrics
    assert 'palisade_records_total{client="alice"} 3.0' in metrics


def subprocess_list(server: RunningServer) -> str:
    """Words and environment of the server's process."""
    process = psutil.Process(server.process.pid)
    return " ".join([*process.cmdline(), *process.environ().values()])
