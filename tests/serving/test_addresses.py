"""Addresses: who may name a server without keys, who reads its answers, and who else wants its port."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import requests
from running_server import DIGIT_IMAGES, RunningServer, command, free_port, running

from palisade.serving import listener
from palisade.serving.hosts import is_from_elsewhere
from palisade.serving.keys import KeyFile, KeyRing
from palisade.serving.settings import Limits, ServingSettings


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({"host": "localhost:8080"}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "127.8.0.1:1"}, False),
        ({"host": "[::1]:8080"}, False),
        ({"host": "LOCALHOST"}, False),
        ({"host": "evil.example"}, True),
        ({"host": "evil.example:8080"}, True),
        ({"host": "localhost.evil.example"}, True),
        ({"host": "127.0.0.1.evil.example"}, True),
        ({"host": "192.168.0.1"}, True),
        ({"host": "[::1"}, True),
        ({"host": ""}, True),
        ({}, True),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, False),
        ({"host": "localhost:1", "origin": "http://localhost:2"}, True),
        ({"host": "localhost:1", "origin": "https://evil.example"}, True),
        ({"host": "localhost:1", "origin": "null"}, True),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site"}, True),
        ({"host": "localhost:1", "sec-fetch-site": "same-site"}, True),
        ({"host": "localhost:1", "sec-fetch-site": "same-origin", "origin": "http://localhost:1"}, False),
        ({"host": "localhost:1", "sec-fetch-site": "none"}, False),
    ],
)
def test_pages_of_other_sites_are_known(headers: dict[str, str], is_foreign: bool) -> None:
    assert is_from_elsewhere("POST", headers) == is_foreign
    is_named_well = headers.get("host") == "localhost:1"
    assert is_from_elsewhere("GET", headers) == (is_foreign and not is_named_well), "a link is no question"


def test_a_web_page_reaches_no_server_without_keys(digits_release, tmp_path: Path) -> None:
    folder, rows = digits_release("none"), DIGIT_IMAGES[:1]
    evil = {"Host": "evil.example"}
    with running(folder, f"private={tmp_path}", "host=localhost") as server:
        port = server.url.rpartition(":")[2]
        assert f"at http://localhost:{port}" in server.printed()
        for path in ("/card", "/v2/models/released", "/v2/health/ready"):
            assert requests.get(server.url + path, headers=evil, timeout=5).status_code == 421
        body = {"instances": rows.tolist()}
        page = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
        for headers in (evil, page):
            url = f"{server.url}/v1/models/released:predict"
            refused = requests.post(url, json=body, headers=headers, timeout=5)
            assert refused.status_code == 421 and "\n" not in refused.json()["error"]
        assert requests.get(server.metrics_url, headers=evil, timeout=5).status_code == 421
        metrics = requests.get(server.metrics_url, timeout=5).text
        assert server.predict(rows).status_code == 200
    assert 'palisade_requests_total{client="unknown",status="421"} 5.0' in metrics
    assert (tmp_path / "released" / "counts.jsonl").read_text().count('"new"') == 1, "the answered one alone"


def test_whoever_has_a_key_may_name_the_server_as_they_like(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    ring = KeyRing(file, Limits(), is_local=True)
    assert ring.is_open
    file.make("alice", None)
    ring.reread()
    assert not ring.is_open, "a page has no key to send"


def settings(**changes: object) -> ServingSettings:
    empty = {"limits": {}, "store": {"name": "memory"}, "domain": {}, "monitor": {"name": "none"}, "key": {}}
    return ServingSettings(**{"release": "released", "port": free_port(), **empty, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="not told by this system")
def test_a_connection_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SECONDS_TO_READ", 1)
    with listener.bound(settings(metrics_port=None)) as server, socket.socket() as client:
        server.listen()
        client.connect(server.getsockname())
        answering, _ = server.accept()
        with answering, pytest.raises(OSError, match="timed out") as ended:
            answering.settimeout(None)
            while True:
                answering.sendall(b"a" * 2**20)
    assert isinstance(ended.value, TimeoutError)


def test_two_servers_that_start_at_once_do_not_share_a_port(digits_release, tmp_path: Path) -> None:
    """Each is checked before it loads; only one of them may listen after that."""
    folder, port = digits_release("none"), free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))  # it is about to listen, as one that loads is
        with listener.bound(settings(port=port, metrics_port=None)) as late:
            other.listen()
            with pytest.raises(ValueError, match=f"port={port}: expected {port} to be free at 127.0.0.1"):
                listener.ListeningServer(None, late)
        done = command(f"port={port}", f"private={tmp_path}", folder=folder)
    assert done.returncode == 2 and re.search(f"port={port}: expected {port} to be free", done.stderr), done.stderr


def test_addresses_of_both_kinds_are_written_as_such(digits_release, tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 here")
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]

    def look(server: RunningServer) -> None:
        server.url = f"http://[::1]:{port}"

    with running(digits_release("none"), f"private={tmp_path}", "host=::1", f"port={port}", at_start=look) as server:
        assert server.predict(DIGIT_IMAGES[:1]).status_code == 200
        assert f"at http://[::1]:{port}" in server.printed()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
